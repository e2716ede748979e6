"""JAX: primitives with gradients, forward-mode, vmap and jit, around the C++ kernel and a tiled formulation in jax.numpy."""
