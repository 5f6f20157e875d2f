"""Parallel training: the strategies that spread a run over processes, and what each process holds under them."""
