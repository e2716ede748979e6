"""How `regard.check` finds what a model sees."""
