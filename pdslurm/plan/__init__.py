"""A configuration in; what will run out, first without hosts, then on them: instances, points, command lines, content keys."""
