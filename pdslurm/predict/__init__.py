"""Instances, links and requests in; what a client and the engines' counters would have said of them out. Standard library alone."""
