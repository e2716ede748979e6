"""Texts that go on token by token: rows that share a prompt read one encoding of it, and whoever is done leaves.

A row whose tokens fill the context goes on with the last half of it, encoded anew, so that it always reads what training
showed: at most `context` tokens, from position 0 on. When that happens depends on the row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard._packed import Packed
from regard.nn.cache import LayerCache, keep
from regard.nn.language import LanguageModel, branch

Array = NDArray[Any]
Choose = Callable[[Array, Array], tuple[Array, Array]]


def continued(
    model: LanguageModel, prompts: Sequence[Sequence[int]], rows: Array, choose: Choose, limit: int
) -> Iterator[tuple[Array, Array]]:
    """Write rows token by token, each until `choose` says that it is done.

    Arguments:
        model: in evaluation mode.
        prompts: token ids, at least one and at most `model.context` each.
        rows: (M,) the prompt of each row; several may go on with one.
        choose: from the numbers (m,) of the rows that go on and the scores (m, vocabulary) of what may follow, the tokens
            (m,) that do, and whether (m,) a row is done with it.
        limit: tokens that any row writes, at most; for these there is room at once.

    Yields:
        The numbers of rows and the token that each has got, step by step.
    """
    texts = [list(prompts[prompt]) for prompt in rows]
    prefixes, reads, live = [list(prompt) for prompt in prompts], np.asarray(rows), np.arange(len(rows))
    while len(live):
        waiting: list[int] = []
        held = np.array([len(prefix) for prefix in prefixes], np.int64)[reads]
        scores, caches = _begun(model, prefixes, reads, min(limit, model.context - int(held.min())))
        while len(live):
            tokens, done = choose(live, scores)
            for row, token in zip(live.tolist(), tokens.tolist(), strict=True):
                texts[row].append(token)
            yield live, tokens
            full = held >= model.context
            waiting += live[full & ~done].tolist()
            stays = np.flatnonzero(~full & ~done)
            if len(stays) < len(live):
                live, held, tokens = live[stays], held[stays], tokens[stays]
                keep(caches, torch.from_numpy(stays))
            if len(live):
                scores = _next(model, tokens, held, caches)
                held = held + 1
        # From here on every row has a prefix of its own, and all are equally long.
        live = np.array(sorted(waiting), np.int64)
        prefixes, reads = [texts[row][-max(1, model.context // 2) :] for row in live], np.arange(len(live))


@torch.no_grad()
def log_probabilities(
    model: LanguageModel, prompt: Sequence[int], candidates: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """The log-probability of each of some texts after a prompt, which is read once.

    Arguments:
        model: in evaluation mode.
        prompt: token ids, at least one.
        candidates: token ids of every candidate, at least one; with the prompt they fit into the context.

    Returns:
        (candidates,) sums over the tokens of each, in nats.
    """
    states, caches = model.read(_packed([prompt]), room=0)
    branch(caches, np.zeros(len(candidates), np.int64))
    # The first token of a candidate follows the prompt's last, the others follow each other.
    before = _packed([ids[:-1] for ids in candidates])
    lengths = before.lengths
    within = np.arange(lengths.sum()) - np.repeat(before.offsets[:-1].astype(np.int64), lengths)
    total = np.zeros(len(candidates))
    first = torch.log_softmax(model.scores(states[-1:]).double(), -1)[0]
    total += first[torch.tensor([ids[0] for ids in candidates])].numpy()
    if len(within):
        after = model.go_on(before, torch.from_numpy(within + len(prompt)), caches)
        chosen = torch.tensor([token for ids in candidates for token in ids[1:]])
        np.add.at(total, np.repeat(np.arange(len(candidates)), lengths), token_log_p(model, after, chosen))
    return total


def token_log_p(
    model: LanguageModel, states: Tensor, chosen: Tensor, rows: int = 2048
) -> NDArray[np.float64]:
    """The log-probability (T,) of the token that is chosen (T,) after each state (T, dim), without scores of all at once."""
    found = []
    for part, ids in zip(states.split(rows), chosen.split(rows), strict=True):
        log_p = torch.log_softmax(model.scores(part).float(), -1)
        found.append(log_p.gather(-1, ids[:, None])[:, 0].double())
    return torch.cat(found).numpy() if found else np.zeros(0)


@torch.no_grad()
def _begun(
    model: LanguageModel, prefixes: Sequence[Sequence[int]], reads: Array, room: int
) -> tuple[Array, list[LayerCache]]:
    packed = _packed(prefixes)
    alone = np.array_equal(reads, np.arange(len(prefixes))) and len(set(packed.lengths.tolist())) == 1
    states, caches = model.read(packed, room, shared=not alone)
    if not alone:
        branch(caches, reads)
    last = states[torch.from_numpy(packed.offsets[1:].astype(np.int64) - 1)]
    return model.scores(last).float().numpy()[reads], caches


@torch.no_grad()
def _next(model: LanguageModel, tokens: Array, held: Array, caches: list[LayerCache]) -> Array:
    packed = Packed(torch.from_numpy(tokens.astype(np.int64)), np.arange(len(tokens) + 1))
    states = model.go_on(packed, torch.from_numpy(held.astype(np.int64)), caches)
    return np.asarray(model.scores(states).float().numpy())


def _packed(sequences: Sequence[Sequence[int]]) -> Packed:
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in sequences], dtype=np.int64)])
    return Packed(torch.tensor([token for ids in sequences for token in ids], dtype=torch.int64), offsets)
