"""Calls that do not come from NumPy or plain PyTorch: tracers, JAX and TensorFlow, each lowered in its own way."""
