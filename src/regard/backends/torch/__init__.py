"""PyTorch: gradients, forward-mode and devices around a tiled formulation in PyTorch's own operations."""
