"""A command of the plan in; a process on this node out, after the node was checked and with nothing left behind."""
