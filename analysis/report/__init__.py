"""Records and their run folders in; text and pages for people, and files for other programs, out."""
