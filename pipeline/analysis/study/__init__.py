"""Studies: runs on disk as labelled arrays."""
