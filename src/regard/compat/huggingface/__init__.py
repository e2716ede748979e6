"""transformers: `attn_implementation="regard"`, and models whose layers compute no padding."""

from regard.compat.huggingface.registration import register
from regard.compat.huggingface.unpadding import unpadded

__all__ = ["register", "unpadded"]
