"""PyTorch: its own functions with regard inside, each with the signature, the mask polarity and the alignment of the host."""

from regard.compat.torch.sdpa import scaled_dot_product_attention

__all__ = ["scaled_dot_product_attention"]
