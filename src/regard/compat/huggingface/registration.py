"""regard under its name among transformers' attention implementations."""

from __future__ import annotations

from transformers import AttentionInterface, AttentionMaskInterface

from regard.compat.huggingface.attend import attend
from regard.compat.huggingface.mask import make_mask


def register() -> None:
    """Make `attn_implementation="regard"` known to transformers, for every model that takes attention from its interface.

    Attention computes no padding: the 2-D attention mask becomes lengths, or tokens that are brought together, and `position_ids` of
    packed rows become offsets. Causal and bidirectional models, attention to a context, grouped heads, sliding windows, soft
    caps, sinks, position biases and caches work as models pass them. Where a padded token asks, the answer is 0 or what the mask gives; it
    means nothing in either case. Masks of the caller's own, (B, 1, T, S), are honoured, and so is any function of a mask. Weights
    are not returned. `unpadded` goes further and keeps padding out of whole layers.

    Source: https://huggingface.co/docs/transformers/attention_interface

    >>> import transformers
    >>> from regard.compat.huggingface import register
    >>> register()
    >>> config = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=9)
    >>> model = transformers.BertModel._from_config(config, attn_implementation="regard").eval()
    >>> mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    >>> model(input_ids=torch.ones(2, 3, dtype=int), attention_mask=mask).last_hidden_state.shape
    torch.Size([2, 3, 32])
    """
    AttentionInterface.register("regard", attend)
    AttentionMaskInterface.register("regard", make_mask)
