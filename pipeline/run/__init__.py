"""A run on disk (design, "A run on disk"): the one reader and writer of its files. No torch here."""
