"""Translation, ours against its peers: each peer at its best, each in its own environment, one protocol."""
