"""PyTorch: its own functions with regard inside, each with the signature, the mask polarity and the alignment of the host."""

from regard.compat.torch.sdpa import scaled_dot_product_attention
from regard.compat.torch.varlen import install_varlen_cpu

__all__ = ["install_varlen_cpu", "scaled_dot_product_attention"]
