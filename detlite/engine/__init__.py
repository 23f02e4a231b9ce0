"""Training and testing: the loop, its hooks, and the runs that put everything together."""
