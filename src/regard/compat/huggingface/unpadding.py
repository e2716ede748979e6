"""Models of transformers whose layers compute no padding, without a change of the model."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from regard._errors import ConfigError
from regard.compat.huggingface.mask import Packing, Pattern, PatternMask
from regard.compat.huggingface.registration import register

Model = TypeVar("Model", bound=nn.Module)

# With these a layer's keys are not the tokens of its input.
_OTHERS = ("encoder_hidden_states", "past_key_values")


def unpadded(model: Model) -> Model:
    """Let the layers of a transformers model compute the tokens that are not padding, and nothing else.

    Before the first layer of a stack the tokens of (B, T, dim) are brought together into (1, total, dim), all layers compute
    that, attention within each sequence, and behind the last one they go back to their places, 0 in the padding. Embeddings, poolers
    and heads see what they always see, and gradients are the same. It is done where the attention mask has padding on the right or on
    the left. Calls with a cache, decoders that attend to an encoder, and layers with T5's position bias compute as they did. The
    hidden states between layers, if asked for, come packed.

    Arguments:
        model: any model with layers of transformers' kind; it is changed, and set to `attn_implementation="regard"`.

    Returns:
        The model.

    Raises:
        ConfigError: the model has no list of layers of one kind, as transformers writes them.

    >>> import transformers
    >>> from regard.compat.huggingface import unpadded
    >>> config = transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=9)
    >>> model = unpadded(transformers.BertModel(config)).eval()
    >>> mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    >>> model(input_ids=torch.ones(2, 3, dtype=int), attention_mask=mask).last_hidden_state[1, 1:].abs().max()
    tensor(0., grad_fn=<MaxBackward1>)
    """
    register()
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and _is_stack(module)]
    if not stacks:
        raise ConfigError(
            f"expected a transformers model with a list of layers of one kind, got {type(model).__name__}; "
            'use register() and attn_implementation="regard"'
        )
    model.set_attn_implementation("regard")  # type: ignore[operator]
    for stack in stacks:
        for layer in stack:
            layer.register_forward_pre_hook(_pack, with_kwargs=True)
        stack[-1].register_forward_hook(_pad, with_kwargs=True)
    return model


def _is_stack(modules: nn.ModuleList) -> bool:
    """Whether these are layers, all of one kind, whose numbers stand at tokens alone: T5's have some for places in the batch."""
    kinds: set[Any] = {type(module) for module in modules}
    return (
        len(kinds) == 1
        and all(issubclass(kind, GradientCheckpointingLayer) for kind in kinds)
        and all("position_bias" not in _parameters(kind) for kind in kinds)
    )


def _pack(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """A layer's arguments with the tokens that are kept; what an earlier layer packed stays as it is."""
    given = _named(layer, args, kwargs)
    mask = given.get("attention_mask")
    if not isinstance(mask, PatternMask) or any(given.get(name) is not None for name in _OTHERS):
        return None
    pattern = mask.pattern
    batch, _, queries, keys = mask.shape
    # Windows count across holes, and all layers of a stack are treated alike, with a window and without.
    if pattern.keep is None or pattern.start or queries != keys or pattern.has_holes:
        return None
    packing = pattern.packing
    packed = PackedMask(pattern, packing, mask.device)

    def pack(value: Any) -> Any:
        if value is mask:
            return packed
        if isinstance(value, tuple | list):
            return type(value)(map(pack, value))
        if (
            isinstance(value, Tensor)
            and value.dim() > 1
            and value.shape[1] == queries
            and value.shape[0] in (1, batch)
        ):
            return packing.pack(value.expand(batch, *value.shape[1:]))[None]
        return value

    return tuple(map(pack, args)), {name: pack(value) for name, value in kwargs.items()}


def _pad(layer: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """The output of the last layer, back in its places."""
    mask = _named(layer, args, kwargs).get("attention_mask")
    if not isinstance(mask, PackedMask):
        return None
    if isinstance(output, Tensor):
        return mask.packing.pad(output[0])
    return (mask.packing.pad(output[0][0]), *output[1:])


class PackedMask(PatternMask):
    """The mask of packed tokens, which remembers where these stood."""

    packing: Packing

    @staticmethod
    def __new__(cls: type[Self], padded: Pattern, packing: Packing, device: Any) -> Self:
        total = int(packing.offsets[-1])
        lengths = torch.as_tensor(packing.offsets, device=device).diff()
        documents = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)[None]
        pattern = Pattern(padded.left, padded.right, documents=documents, aligned=True)
        mask = PatternMask.__new__(cls, pattern, (1, 1, total, total), device)
        mask.packing = packing
        return mask


def _named(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    kind: Any = type(layer)
    names = _parameters(kind)
    return dict(zip(names, args, strict=False)) | kwargs


@functools.cache
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]
