"""Which backend a call would use and why, and what the call costs: nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regard._arrays import entry_of, is_tensorflow
from regard._attention import Call, choose, lower, refusal
from regard._choice import BACKENDS
from regard._errors import BackendError
from regard._masks import count_pairs
from regard._packed import Packed


@dataclass(frozen=True)
class Explanation:
    """What `regard.explain` found; `print` it.

    `backend` is None when none of the wanted backends serves the call. `refusals` says why the others do not. `pairs`
    counts (query, key) pairs that are kept, over all heads; `all_pairs` those without a mask. `flops` is the forward
    pass's arithmetic, two operations a multiply-add. `bytes_beyond_arrays` is the output, the lse, and what a bias by
    distance comes to. `note` says how programs of JAX reach the kernel where they can't call it directly.
    """

    backend: str | None
    refusals: dict[str, str]
    sequences: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    pairs: int
    all_pairs: int
    flops: int
    bytes_beyond_arrays: int
    note: str = ""

    def __str__(self) -> str:
        kept = self.pairs / self.all_pairs if self.all_pairs else 0.0
        lines = [
            f"backend: {self.backend or 'none'}{self.note and f' ({self.note})'}",
            *(f"  not {name}: {reason}" for name, reason in self.refusals.items()),
            f"{self.sequences:,} sequences, {self.queries:,} queries, {self.keys:,} keys",
            f"{self.heads} heads over {self.kv_heads} key heads",
            f"{self.pairs:,} pairs kept of {self.all_pairs:,} ({kept:.1%})",
            f"{self.flops / 1e9:.3g} GFLOP forward, {self.bytes_beyond_arrays / 2**20:.3g} MiB beyond the arrays",
        ]
        return "\n".join(lines)


def explain(
    query: Any,
    key: Any,
    value: Any,
    *,
    backend: str | Sequence[str] | None = None,
    **options: Any,
) -> Explanation:
    """Explain a call of `regard.attention` with the same arguments.

    Raises what the call would raise for arguments that do not fit; a backend that cannot serve it is told, not raised.

    >>> x = np.zeros((2, 100, 4, 16), np.float32)
    >>> print(regard.explain(x, x, x, mask=regard.Causal() & regard.Window(9)))
    backend: native
      not reference: comes after native
      not tiled: computes torch, jax and tensorflow arrays, these are numpy
    2 sequences, 200 queries, 200 keys
    4 heads over 4 key heads
    7,640 pairs kept of 80,000 (9.6%)
    0.000489 GFLOP forward, 0.0519 MiB beyond the arrays
    """
    options.pop("return_aux", None)
    call = _lowering_of(query)(query, key, value, **{**_DEFAULTS, **options})
    try:
        chosen = choose(call, backend)
    except BackendError:
        chosen = None
    plan, spans = call.plan, call.plan.spans
    pairs = count_pairs(plan.mask, spans, plan.heads)
    width, value_width = call.query.shape[-1], call.value.shape[-1]
    distances = len(plan.distances) if plan.bias == "distance" else 0
    rows = plan.total_queries * (value_width * _size(call.query) + 4)
    return Explanation(
        backend=chosen,
        refusals=_refusals(call, backend, chosen),
        sequences=len(spans),
        queries=int(spans.q_length.sum()),
        keys=int(spans.k_length.sum()),
        heads=plan.heads,
        kv_heads=plan.kv_heads,
        pairs=pairs,
        all_pairs=count_pairs(None, spans, plan.heads),
        flops=2 * pairs * (width + value_width),
        bytes_beyond_arrays=plan.heads * (rows + 4 * distances),
        note=_note(call, chosen),
    )


_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("mask", "bias", "cu_seqlens_q", "cu_seqlens_k", "key_sequence", "query_start")),
    **dict.fromkeys(("scale", "softcap", "sinks", "seed")),
    "dropout_p": 0.0,
}


def _note(call: Call, chosen: str | None) -> str:
    if call.framework != "jax" or chosen != "native":
        return ""
    from regard.backends.jax.native import has_handler

    return (
        ""
        if has_handler()
        else "in programs by JAX's callback: the kernel was built without jaxlib's headers"
    )


def _refusals(call: Call, wanted: str | Sequence[str] | None, chosen: str | None) -> dict[str, str]:
    names = [wanted] if isinstance(wanted, str) else list(wanted or ())
    every = [name for backends in BACKENDS.values() for name in backends]
    refusals = {}
    for name in dict.fromkeys([*names, *every]):
        reason = refusal(call, name)
        if reason is None and names and name not in names:
            reason = "was not asked for"
        if reason is None and name != chosen:
            reason = f"comes after {chosen}"
        if reason is not None:
            refusals[name] = reason
    return refusals


def _lowering_of(query: Any) -> Any:
    if entry_of(query.values if isinstance(query, Packed) else query) == "tensorflow":
        from regard._entries import tensorflow

        return tensorflow.lowered
    return lower


def _size(array: Any) -> int:
    if is_tensorflow(array):
        return int(array.dtype.size)
    return int(array.itemsize if hasattr(array, "itemsize") else array.element_size())
