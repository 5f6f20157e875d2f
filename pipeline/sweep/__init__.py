"""Studies: which runs, and running them. Starts training, knows nothing of what is inside a run."""
