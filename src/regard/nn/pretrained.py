"""Encoders of the BERT family over packed sequences: learned positions, token types, layer norms behind the residuals, GELU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard._arrays import is_traced
from regard._errors import ConfigError, ShapeError
from regard._packed import Packed
from regard.nn._sequences import positions_of
from regard.nn.attention import SelfAttention
from regard.nn.feedforward import Dropout
from regard.nn.pretrained_shape import PretrainedShape, read_shape
from regard.nn.reordered import ReorderedLinear


class PretrainedBlock(nn.Module):
    """`h = norm(x + attention(x))`, then `norm(h + down(gelu(up(h))))` (post-norm: Vaswani et al. 2017; Devlin et al. 2019)."""

    def __init__(self, shape: PretrainedShape) -> None:
        super().__init__()
        self.attention = SelfAttention(shape.dim, shape.heads, bias=True, dropout=shape.attention_dropout)
        self.attention.query_key_value = ReorderedLinear(shape.dim, 3 * shape.dim)
        self.attention.output = ReorderedLinear(shape.dim, shape.dim)
        self.attention_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.up = ReorderedLinear(shape.dim, shape.hidden)
        self.down = ReorderedLinear(shape.hidden, shape.dim)
        self.feed_forward_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.dropout = Dropout(shape.dropout)
        self.approximate = shape.approximate

    def forward(self, x: Packed) -> Packed:
        """`Packed` (total, dim), in and out."""
        found = self.dropout(self.attention(x).values)
        values = self.attention_norm(_added(found, x.values))
        found = self.dropout(self.down(_gelu(self.up(values), self.approximate)))
        return x.with_values(self.feed_forward_norm(_added(found, values)))


class PretrainedEncoder(nn.Module):
    """A BERT, RoBERTa, DistilBERT or ELECTRA encoder, without padding; its hidden states are those of `transformers`.

    `x = norm(words[id] + positions[place] + types[type])`, then `shape.layers` post-norm layers. Sources: Devlin et al.
    2019; Liu et al. 2019; Sanh et al. 2019; Clark et al. 2020.

    Arguments:
        shape: sizes and settings. `PretrainedEncoder.load` reads them, and the weights, from a folder.

    Raises:
        ShapeError: `dim` is no multiple of `heads`.

    >>> encoder = regard.nn.PretrainedEncoder(regard.nn.PretrainedShape(100, dim=32, heads=4, layers=2, hidden=64))
    >>> ids = regard.Packed(torch.arange(7), np.array([0, 3, 7]))
    >>> encoder(ids).values.shape, len(encoder(ids, all_layers=True))
    (torch.Size([7, 32]), 3)
    """

    def __init__(self, shape: PretrainedShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.embedding_dim or shape.dim
        self.words = nn.Embedding(shape.vocabulary, width)
        self.positions = nn.Embedding(shape.positions, width)
        self.types = nn.Embedding(shape.token_types, width) if shape.token_types else None
        self.norm = nn.LayerNorm(width, eps=shape.eps)
        self.project = ReorderedLinear(width, shape.dim) if width != shape.dim else None
        self.dropout = Dropout(shape.dropout)
        self.blocks = nn.ModuleList(PretrainedBlock(shape) for _ in range(shape.layers))

    @classmethod
    def load(cls, folder: str | Path) -> PretrainedEncoder:
        """The encoder in a folder with `config.json` and `model.safetensors`, ready to be used (`eval()`); nothing is unpickled.

        Tensors may be of any floating type and become float32; heads and poolers in the file are left out.

        Raises:
            ConfigError: an architecture, key or value of `config.json` that cannot be used.
            CheckpointError: a file is missing, damaged, pickled, or its tensors do not fit `config.json`.
        """
        from regard.nn.pretrained_weights import read_weights

        shape = read_shape(Path(folder))
        with torch.device("meta"):  # nothing is allocated or drawn before the file has been compared
            encoder = cls(shape)
        encoder.load_state_dict(
            read_weights(Path(folder), shape.architecture, encoder.state_dict()), assign=True
        )
        return encoder.eval()

    def forward(
        self,
        ids: Packed,
        token_types: Packed | Tensor | None = None,
        *,
        extra: Tensor | None = None,
        all_layers: bool = False,
        layers: int | None = None,
    ) -> Any:
        """Hidden states.

        Arguments:
            ids: token ids, `Packed` values (total,).
            token_types: (total,) types, by default 0; left aside where the architecture has none.
            extra: (total, dim) added to what the first layer reads.
            all_layers: give the embeddings and every layer's states.
            layers: run so many of the lowest layers, by default all.

        Returns:
            The last layer's states, `Packed` values (total, dim); with `all_layers` a list of `layers + 1` of them.

        Raises:
            ShapeError: `ids` is not packed, a sequence is too long, types do not fit, or an id is outside the vocabulary.
        """
        types = token_types.values if isinstance(token_types, Packed) else token_types
        self._check(ids, types)
        embedded = self._embedded(ids, types)
        x = ids.with_values(embedded if extra is None else embedded + extra)
        states = [x]
        for block in self.blocks[:layers]:
            x = block(x)
            if all_layers:
                states.append(x)
        return states if all_layers else x

    def _embedded(self, ids: Packed, types: Tensor | None) -> Tensor:
        places = positions_of(ids.with_values(ids.values[:, None]), self.shape.first_position)
        values = _added(self.words(ids.values), self.positions(places))
        if self.types is not None:
            values = _added(values, self.types.weight[0] if types is None else self.types(types))
        values = self.dropout(self.norm(values))
        return values if self.project is None else self.project(values)

    def _check(self, ids: Packed, types: Tensor | None) -> None:
        values = ids.values if isinstance(ids, Packed) else ids
        if not isinstance(ids, Packed) or values.ndim != 1:
            raise ShapeError(
                f"token ids must be Packed with values (total,). Received {type(ids).__name__} of shape "
                f"{tuple(values.shape)}. Pack the sequences with regard.Packed.pack."
            )
        if types is not None and types.shape != values.shape:
            raise ShapeError(
                f"expected a token type for each of {len(values)} tokens. Received shape {tuple(types.shape)}."
            )
        if is_traced(values):
            return
        longest = int(ids.lengths.max(initial=0))
        if longest > self.shape.longest:
            raise ShapeError(
                f"a sequence is too long. Expected: at most {self.shape.longest} tokens, for which there are positions. "
                f"Received: {longest}. Cut it, or split it into windows."
            )
        if values.device.type == "cpu":  # elsewhere to look would mean to wait
            _check_range(
                values, self.shape.vocabulary, "a token id", "Encode with the tokenizer of this encoder."
            )
            if types is not None and self.types is not None:
                _check_range(types, self.shape.token_types, "a token type", "Leave token_types out.")

    def freeze(self, layers: int | None) -> None:
        """Keep the embeddings and the lowest `layers` layers as they are in training; None lets everything learn.

        Raises:
            ConfigError: there are not so many layers.

        >>> encoder = regard.nn.PretrainedEncoder(regard.nn.PretrainedShape(100, dim=32, heads=4, layers=2, hidden=64))
        >>> encoder.freeze(1)
        >>> [all(p.requires_grad for p in part.parameters()) for part in encoder.parts()]
        [False, False, True]
        """
        if layers is not None and not 0 <= layers <= len(self.blocks):
            raise ConfigError(
                f"the encoder has {len(self.blocks)} layers. Expected: at most as many to freeze, or None. Received: {layers}."
            )
        for number, part in enumerate(self.parts()):
            part.requires_grad_(layers is None or number > layers)

    def parts(self) -> list[nn.Module]:
        """The embeddings, all that stands before the first layer, and each layer, from the lowest up."""
        before = [self.words, self.positions, self.types, self.norm, self.project]
        return [nn.ModuleList(part for part in before if part is not None), *self.blocks]


def parameter_groups(
    encoder: PretrainedEncoder, learning_rate: float, decay: float = 0.9
) -> list[dict[str, Any]]:
    """Parameters for an optimiser, with learning rates that fall from layer to layer on the way down.

    The highest layer has `learning_rate`, each layer below `decay` times the rate above it, the embeddings the lowest
    (Howard and Ruder 2018; Sun et al. 2019). Frozen parameters are left out.

    Arguments:
        encoder: the encoder.
        learning_rate: of the highest layer.
        decay: factor from a layer to the one below, above 0 and at most 1.

    Returns:
        Groups {"params", "lr"}, from the embeddings up.

    Raises:
        ConfigError: the factor is out of range.

    >>> encoder = regard.nn.PretrainedEncoder(regard.nn.PretrainedShape(100, dim=32, heads=4, layers=2, hidden=64))
    >>> [group["lr"] for group in regard.nn.parameter_groups(encoder, 1e-3, decay=0.5)]
    [0.00025, 0.0005, 0.001]
    """
    if not 0 < decay <= 1:
        raise ConfigError(f"decay must be a factor above 0 and at most 1. Received {decay}.")
    groups = []
    for height, part in enumerate(reversed(encoder.parts())):
        learning = [parameter for parameter in part.parameters() if parameter.requires_grad]
        if learning:
            groups.append({"params": learning, "lr": learning_rate * decay**height})
    return groups[::-1]


def mean_pool(states: Packed) -> Tensor:
    """The mean of every sequence's states, (N, dim); an empty sequence gives 0.

    >>> regard.nn.mean_pool(regard.Packed(torch.tensor([[1.0], [3.0], [5.0]]), np.array([0, 2, 2, 3])))
    tensor([[2.],
            [0.],
            [5.]])
    """
    values = states.values
    lengths = torch.from_numpy(states.lengths).long().to(values.device)
    sums = torch.segment_reduce(values, "sum", lengths=lengths, initial=0, unsafe=True)
    return sums / lengths.clamp(min=1)[:, None]


def _added(into: Tensor, x: Tensor) -> Tensor:
    """`into + x`, in the memory of `into`, which nobody else holds, where no gradient needs either."""
    if into.requires_grad or x.requires_grad or into.dtype != x.dtype:
        return into + x
    return into.add_(x)


def _gelu(x: Tensor, approximate: str) -> Tensor:
    """`gelu(x)`, in the memory of `x` where no gradient needs it."""
    if x.requires_grad:
        return F.gelu(x, approximate=approximate)
    return torch.ops.aten.gelu_(x, approximate=approximate)


def _check_range(values: Tensor, count: int, what: str, remedy: str) -> None:
    if not len(values):
        return
    least, most = (int(value) for value in torch.aminmax(values))
    if least < 0 or most >= count:
        raise ShapeError(
            f"{what} is out of range. Expected: 0 to {count - 1}. Received: {least} to {most}. {remedy}"
        )
