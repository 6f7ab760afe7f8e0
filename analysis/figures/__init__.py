"""Records with their statistics in; figures out."""
