"""A point's evidence in; whether its numbers may be used, out: the same rules while measuring and whenever a record is read."""
