"""Plain values shared by every part: no I/O, no imports from the rest of the package."""
