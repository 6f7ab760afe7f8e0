"""A configuration in; its plan printed, written as a script or carried out, by one module for each kind of `launcher`."""
