"""Tables of runs that this package did not train: files, and W&B's folders and projects."""
