"""`regard.check`: whether a model lets tokens see what they must not, found by changing it and watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from regard._check.hosts import has_gradients, host_name, is_floating
from regard._check.leaks import Leak, Leaks
from regard._check.probes import Probe, Tokens, future_probes, padding_probes, sequence_probes
from regard._check.trial import Trial
from regard._errors import ConfigError, ShapeError
from regard._packed import Packed, checked_offsets

NAMED = 3  # leaks of a kind
GRADIENTS = 6  # probes, beside the last, whose gradients are looked at
NO_GRADIENT = "the output has none"


def check(
    model: Callable[[Any], Any],
    batch: Any,
    *,
    causal: bool = False,
    lengths: Any = None,
    offsets: Any = None,
    pad: int | None = None,
    per: str | None = None,
    gradients: bool = True,
    strict: bool = False,
    thorough: bool = False,
    seed: int = 0,
) -> Leaks:
    """Whether a token can see across sequences, into the future or past its padding, in any model of any framework.

    What must not matter is changed, many tokens at a time, and what must not notice is watched; where something does notice, halves
    of what was changed name the culprit. A batch of N sequences costs about `4 log2(N) + 30` calls. Gradients are looked at too,
    in PyTorch, JAX and TensorFlow: they show what a change is too small, or an output too saturated, to show.

    Arguments:
        model: called with the batch, gives its output, `Packed` or an array: (total, ...), (N, T, ...), or one row for each sequence,
            (N, ...). What else it needs, such as a mask, is bound by a lambda. It must give the same twice: no dropout. It is
            called many times, and what it counts meanwhile, such as the running means of a batch norm in training, goes on.
        batch: `Packed`; or an array (total, ...) with `offsets`; or an array (N, T, ...), padded where `lengths` says so. Vectors,
            or integers, which are ids; in NumPy, PyTorch, JAX or TensorFlow.
        causal: a token must not see those behind it.
        lengths: (N,) integers, or (N, T) truth values, True where a token is real.
        offsets: (N + 1,) integers.
        pad: of ids, the one by which the model itself knows padding: what it stands for is not changed, and nothing becomes it.
        per: "token" or "sequence": what a row of output is; by default its shape tells.
        gradients: look at them too.
        strict: NaN must not pass either. `regard`'s own layers select; where weights of 0 are multiplied, NaN passes.
        thorough: look into the future at every place, by as many calls as the longest sequence has; else at 8 of them.
        seed: of the changes.

    Returns:
        A report: `ok`, the leaks `found`, and as text what to read.

    Raises:
        ConfigError: nothing can be looked for, or the model gives other numbers when it is called again, or NaN.
        ShapeError: lengths, offsets or outputs that do not belong to the batch.

    >>> layer = regard.nn.SelfAttention(8, heads=2)
    >>> batch = regard.Packed(torch.randn(7, 8), [0, 3, 7])
    >>> regard.check(layer, batch).ok
    True
    >>> print(regard.check(lambda x: x.values.cumsum(0), batch).found[0].kind)  # begins in one sequence, ends in the next
    sequence
    """
    trial = Trial(model, batch, _laid_out(batch, lengths, offsets), pad=pad, per=per, seed=seed)
    leaks: list[Leak] = []
    checked: list[str] = []
    skipped: dict[str, str] = {}
    for kind in ("sequence", "padding", "future"):
        probes, why = _probes(kind, trial, causal, thorough, {leak.kind for leak in leaks})
        if why:
            skipped[kind] = why
            continue
        checked.append(kind)
        leaks += _looked_for(trial, probes, gradients, strict, skipped)
    if not checked:
        raise ConfigError(
            "there is nothing to look for. Expected: two sequences or more, or padding, or causal=True with two tokens. Received: "
            f"{'; '.join(f'{kind}: {why}' for kind, why in skipped.items())}."
        )
    if not causal:
        del skipped["future"]
    return Leaks(tuple(leaks), tuple(checked), skipped, trial.calls)


def _laid_out(batch: Any, lengths: Any, offsets: Any) -> Tokens:
    """Where the tokens of a batch stand."""
    array = batch.values if isinstance(batch, Packed) else batch
    if host_name(array) is None:
        raise ConfigError(
            f"a batch must be Packed or an array of NumPy, PyTorch, JAX or TensorFlow. Received {type(batch).__name__}."
        )
    shape = tuple(array.shape)
    if isinstance(batch, Packed):
        offsets = batch.offsets if offsets is None else offsets
    if offsets is not None:
        return Tokens.of_lengths(np.diff(checked_offsets(offsets, shape[0])).astype(np.int64))
    if len(shape) < 2:
        raise ShapeError(
            f"expected Packed, an array with offsets, or an array (N, T, ...). Received shape {shape}."
        )
    real = np.ones(shape[:2], bool) if lengths is None else np.asarray(lengths)
    if real.dtype != bool:
        if real.shape != shape[:1] or real.min(initial=0) < 0 or real.max(initial=0) > shape[1]:
            raise ShapeError(
                f"lengths must be {shape[0]} numbers from 0 to {shape[1]}. Received {real.tolist()}."
            )
        real = np.arange(shape[1]) < real[:, None]
    if real.shape != shape[:2]:
        raise ShapeError(f"expected truth values of shape {shape[:2]}. Received {real.shape}.")
    return Tokens.of_mask(real)


def _probes(
    kind: str, trial: Trial, causal: bool, thorough: bool, known: set[str]
) -> tuple[list[Probe], str | None]:
    """The probes of a kind, or why there are none."""
    tokens, rows = trial.tokens, trial.rows
    if kind == "sequence":
        found, why = list(sequence_probes(tokens, rows)), "there is one sequence"
    elif kind == "padding":
        found, why = list(padding_probes(tokens, rows)), "there is none"
        if found and trial.pad is not None:
            found, why = [], "the model knows it by its id"
    elif not causal or trial.per == "sequence":
        found, why = [], "an output for each sequence sees all of it" if causal else "causal is not asked for"
    else:
        # Where sequences see each other, one alone is cut: it is its own future that is looked for.
        longest = np.bincount(tokens.sequence[tokens.real], minlength=1).argmax()
        found = list(future_probes(tokens, np.array([longest]) if "sequence" in known else None, thorough))
        why = "no sequence has two tokens"
    return found, None if found else why


def _looked_for(
    trial: Trial, probes: Sequence[Probe], gradients: bool, strict: bool, skipped: dict[str, str]
) -> list[Leak]:
    """The leaks that probes of one kind find; the quiet ways are tried where the loud ones find nothing."""
    leaks = _some(leak for probe in probes for leak in trial.by_value(probe))
    if not leaks and gradients and has_gradients(trial.array):
        found = [trial.by_gradient(probe) for probe in (*probes[:-1][:GRADIENTS], probes[-1])]
        leaks = _some(leak for leak in found if leak is not None)
        if not trial.has_gradient:
            skipped["gradients"] = NO_GRADIENT
    if not leaks and strict and is_floating(trial.array):
        leaks = _some(leak for probe in probes for leak in trial.by_nan(probe))
    return leaks


def _some(leaks: Iterator[Leak]) -> list[Leak]:
    """The first few, each pair of token and source once."""
    kept: dict[Any, Leak] = {}
    for leak in leaks:
        kept.setdefault((leak.token, leak.source), leak)
        if len(kept) == NAMED:
            break
    return list(kept.values())
