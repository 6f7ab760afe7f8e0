"""A deployment in; a record for each measured point out."""
