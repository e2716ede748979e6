"""What a model says of the next tokens of a batch, a block of rows at a time, so that two models or two passes can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ROWS = 256  # rows whose chances are alive at once


@dataclass(frozen=True)
class Chances:
    """The log-probabilities of every token of a vocabulary, in `blocks` blocks of rows; `log_p(b)` gives (rows of block b, vocabulary)."""

    blocks: int
    log_p: Callable[[int], Tensor]


def of_vocabulary(states: Tensor, weight: Tensor) -> Chances:
    """The chances `softmax(states @ weight.T)` from states (T, dim) and weight (vocabulary, dim).

    >>> of_vocabulary(torch.zeros(300, 4), torch.zeros(8, 4)).log_p(1).exp().sum()
    tensor(44.)
    """

    def log_p(number: int) -> Tensor:
        logits = states[ROWS * number : ROWS * (number + 1)] @ weight.mT
        return torch.log_softmax(logits.to(torch.promote_types(states.dtype, torch.float32)), -1)

    return Chances(-(-len(states) // ROWS), log_p)


def added_up(blocks: int, term: Callable[[int], Tensor]) -> Tensor | float:
    """The sum of `term(b)` over blocks; for gradients each is computed again, so that one at a time is alive."""
    return sum(
        checkpoint(term, number, use_reentrant=False, preserve_rng_state=False) for number in range(blocks)
    )


def apart(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`KL(p, q) + KL(q, p)`, summed over rows (..., choices); -inf is never chosen."""
    log_p, log_q = (log.masked_fill(log == -torch.inf, -1e4) for log in (log_p, log_q))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
