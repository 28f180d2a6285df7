"""Training runs, one function each: the only place where networks, losses and data meet."""
