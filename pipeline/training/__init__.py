"""Lightning training of one run, and its directory on disk."""
