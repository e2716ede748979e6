"""Token ids to states: the encoder that the reading tasks share."""

from __future__ import annotations

from torch import Tensor, nn

from regard._packed import Packed
from regard.nn.feedforward import Dropout
from regard.nn.recurrent import encoder_of


class TextEncoder(nn.Module):
    """Embedded tokens through a stack of encoder blocks; every token sees its whole sequence.

    Arguments:
        vocabulary: number of token ids.
        dim: width of the tokens.
        heads: query heads of each block.
        hidden: width of each feed-forward.
        layers: number of blocks.
        dropout: share of the entries dropped in training, of embeddings and of every branch.
        qk_norm: normalize queries and keys per head before they meet.
        kind: "attention", or "recurrent" for LSTMs of as many parameters in its place.

    Raises:
        ShapeError: `dim` is no multiple of `heads`, or heads are of odd size.
        ConfigError: `kind` is neither of the two.

    >>> encoder = regard.nn.TextEncoder(100, dim=32, heads=4, hidden=64, layers=2)
    >>> encoder(regard.Packed(torch.arange(7), np.array([0, 3, 7]))).values.shape
    torch.Size([7, 32])
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        heads: int,
        hidden: int,
        layers: int,
        *,
        dropout: float = 0.0,
        qk_norm: bool = True,
        kind: str = "attention",
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocabulary, dim)
        self.dropout = Dropout(dropout)
        self.encoder = encoder_of(kind)(layers, dim, heads, hidden, dropout=dropout, qk_norm=qk_norm)
        self.apply(initialize)

    def forward(self, tokens: Packed, extra: Tensor | None = None) -> Packed:
        """Token ids (total,) to states (total, dim); `extra` (total, dim) is added to the scaled embeddings."""
        embedded, scale = self.embedding(tokens.values), self.dim**0.5
        if extra is not None:
            embedded, scale = embedded * scale + extra, 1.0
        return self.encoder(tokens.with_values(self.dropout(embedded, scale)))


def initialize(module: nn.Module) -> None:
    """Xavier's weights for linear layers, zero biases, and embeddings of about unit length."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
