"""Drop-ins with the host's own signature and semantics, each over `regard.attention`."""
