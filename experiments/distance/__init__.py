"""Attention and recurrence over distance: questions whose answer lies further and further away."""
