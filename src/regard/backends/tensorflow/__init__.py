"""TensorFlow: the kernel in eager mode and in graphs, and a tiled formulation in TensorFlow's own operations, which XLA compiles."""
