"""One room per way to compute a plan; they never import each other."""
