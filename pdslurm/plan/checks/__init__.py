"""A configuration in; everything that is wrong with it out, one sentence for each problem."""
