"""Calls of attention drawn by Hypothesis, each in three forms: packed, padded with `Lengths`, and one sequence at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch
from hypothesis import strategies as st

from regard import (
    Alibi,
    Aux,
    Causal,
    Dense,
    DenseBias,
    Documents,
    Global,
    Lengths,
    Prefix,
    RelativeBias,
    Window,
    attention,
)
from regard._attention import lower
from regard.backends import reference

RNG = np.random.default_rng(0)
BIASES = ("bias", "slopes", "table")  # a dense bias, those of `Alibi`, that of `RelativeBias`
BRING = {
    "numpy": np.asarray,
    "torch": torch.as_tensor,
    "jax": jnp.asarray,
    "tensorflow": tf.convert_to_tensor,
}
KINDS = {"numpy": np.ndarray, "torch": torch.Tensor, "jax": jnp.ndarray, "tensorflow": tf.Tensor}


def dtype_of(array):
    """The name of an array's dtype, which every framework writes its own way."""
    return getattr(array.dtype, "name", str(array.dtype).removeprefix("torch."))


def draw(rows, keys, heads=4, kv_heads=2, size=3, out_size=5, leading=()):
    shapes = (rows, heads, size), (keys, kv_heads, size), (keys, kv_heads, out_size)
    return [RNG.normal(size=(*leading, *shape)) for shape in shapes]


def run(framework, query, key, value, **options):
    """The call in a framework, on NumPy arrays, as NumPy; "reference" stands for the specification."""
    if framework == "reference":
        framework, options["backend"] = "numpy", "reference"
    bring = BRING[framework]
    given_arrays = {name: bring(options.pop(name)) for name in ("sinks", "bias") if name in options}
    result = attention(bring(query), bring(key), bring(value), **given_arrays, **options)
    assert isinstance(result, KINDS[framework])
    return np.asarray(result)


OPTIONS = (
    "mask",
    "bias",
    "cu_seqlens_q",
    "cu_seqlens_k",
    "key_sequence",
    "query_start",
    "scale",
    "softcap",
    "sinks",
)


def call_of(query, key, value, **options):
    """The lowered call, for the reference's own functions."""
    return lower(query, key, value, **(dict.fromkeys(OPTIONS) | {"dropout_p": 0.0, "seed": None} | options))


@dataclass(frozen=True)
class Case:
    """N sequences of queries, and the K key sequences that they read."""

    q_lengths: np.ndarray
    k_lengths: np.ndarray  # of the key sequences
    reads: np.ndarray  # (N,) which key sequence each query sequence reads
    arrays: dict[str, np.ndarray]  # query, key, value, grad_out, grad_lse, perhaps sinks and one of BIASES
    mask: Any  # a tree of tuples: see `built`
    query_start: Any
    options: dict[str, Any]
    buckets: dict[str, Any]  # how a table's buckets are drawn

    @property
    def cu_q(self):
        return np.concatenate([[0], np.cumsum(self.q_lengths)])

    @property
    def cu_k(self):
        return np.concatenate([[0], np.cumsum(self.k_lengths)])


@dataclass(frozen=True)
class Form:
    """Which sequences a form holds, and which packed token stands at each of its flat rows (-1: padding)."""

    sequences: np.ndarray
    q_tokens: np.ndarray
    k_tokens: np.ndarray


def built(tree, form):
    """The mask of a tree for one form; leaves with one entry a sequence or a token are rearranged."""
    kind, *rest = tree
    if kind in ("and", "or"):
        first, second = (built(part, form) for part in rest)
        return first & second if kind == "and" else first | second
    if kind == "not":
        return ~built(rest[0], form)
    if kind == "documents":
        return Documents(
            *(_taken(ids, tokens) for ids, tokens in zip(rest, (form.q_tokens, form.k_tokens), strict=True))
        )
    if kind == "dense":
        return Dense(_chosen(rest[0], form))
    if kind == "lengths":
        q, k = (None if part is None else part[form.sequences] for part in rest)
        return Lengths(q=q, k=k)
    if kind == "prefix":
        return Prefix(rest[0] if isinstance(rest[0], int) else rest[0][form.sequences])
    return {"causal": Causal, "window": Window, "global": Global}[kind](*rest)


def _taken(ids, tokens):
    return np.where(tokens >= 0, ids[np.maximum(tokens, 0)], -1) if len(ids) else np.full(tokens.shape, -1)


def _chosen(array, form):
    if array.ndim != 4 or array.shape[0] == 1 or np.array_equal(form.sequences, np.arange(array.shape[0])):
        return array
    return array[form.sequences]


def packed_form(case):
    return Form(np.arange(len(case.q_lengths)), np.arange(case.cu_q[-1]), np.arange(case.cu_k[-1]))


def padded_form(case):
    q, k = (
        np.full((len(case.reads), int(lengths.max(initial=0))), -1)
        for lengths in (case.q_lengths, case.k_lengths)
    )
    for n, read in enumerate(case.reads):
        q[n, : case.q_lengths[n]] = np.arange(case.cu_q[n], case.cu_q[n + 1])
        k[n, : case.k_lengths[read]] = np.arange(case.cu_k[read], case.cu_k[read + 1])
    return Form(np.arange(len(case.reads)), q, k)


def single_form(case, n):
    read = case.reads[n]
    q, k = np.arange(case.cu_q[n], case.cu_q[n + 1]), np.arange(case.cu_k[read], case.cu_k[read + 1])
    return Form(np.array([n]), q, k)


def bias_of(case, arrays, form):
    """The bias of the call in one form, from arrays of either framework, or None."""
    if "bias" in arrays:
        return DenseBias(_chosen(arrays["bias"], form))
    if "slopes" in arrays:
        return Alibi(arrays["slopes"])
    return RelativeBias(arrays["table"], **case.buckets) if "table" in arrays else None


def bias_gradient(case, call, grad):
    """The name of the case's bias and its gradient, from the gradient of the array that the backend received."""
    name = next(name for name in BIASES if name in case.arrays)
    array = case.arrays[name]
    if name == "bias":
        return name, grad.reshape(array.shape)
    # The values are linear in the parameters: one parameter of every head at a time.
    found, distances = np.zeros_like(array), np.arange(call.plan.distances.start, call.plan.distances.stop)
    for row in range(len(array)) if name == "table" else [...]:
        unit = np.zeros_like(array)
        unit[row] = 1
        found[row] = (grad * bias_of(case, {name: unit}, None).values(distances)).sum(-1)
    return name, found


def options_of(case, form):
    """Mask, bias, positions and numbers of the call in one form, as NumPy."""
    options = dict(case.options)
    if case.mask is not None:
        options["mask"] = built(case.mask, form)
    options["bias"] = bias_of(case, case.arrays, form)
    if "sinks" in case.arrays:
        options["sinks"] = case.arrays["sinks"]
    start = case.query_start
    options["query_start"] = start[form.sequences] if isinstance(start, np.ndarray) else start
    return options


def padded_mask(case, mask):
    held = Lengths(q=case.q_lengths, k=case.k_lengths[case.reads])
    return held if mask is None else mask & held


def packed_options(case):
    options = options_of(case, packed_form(case))
    layout = {"cu_seqlens_q": case.cu_q, "cu_seqlens_k": case.cu_k, "key_sequence": case.reads}
    return options | layout


def expected(case):
    """Output, lse and gradients of the packed call by the reference, in the arrays' own precision."""
    call = call_of(*(case.arrays[name] for name in ("query", "key", "value")), **packed_options(case))
    arrays = call.plan, call.query, call.key, call.value, call.bias_array, call.sinks, call.seed
    out, lse = reference.forward(*arrays)
    grads = reference.backward(*arrays, out, lse, case.arrays["grad_out"], case.arrays["grad_lse"])
    found = {"out": out, "lse": lse} | dict(zip(("query", "key", "value"), grads, strict=False))
    if call.bias is not None:
        name, grad = bias_gradient(case, call, grads[3])
        found[name] = grad
    return found | {"sinks": grads[4]}


class Tensors:
    """The arrays of a case as PyTorch leaves, and the results of a call with all gradients."""

    def __init__(self, case, dtype=torch.float64):
        self.case = case
        wanted = ("query", "key", "value", *BIASES, "sinks")
        self.leaves = {
            name: torch.tensor(case.arrays[name], dtype=dtype, requires_grad=True)
            for name in wanted
            if name in case.arrays
        }
        self.up_out, self.up_lse = (
            torch.tensor(case.arrays[name], dtype=dtype) for name in ("grad_out", "grad_lse")
        )

    def options(self, form):
        options = options_of(self.case, form)
        options["bias"] = bias_of(self.case, self.leaves, form)
        if "sinks" in options:
            options["sinks"] = self.leaves["sinks"]
        return options

    def packed(self):
        case = self.case
        layout = {"cu_seqlens_q": case.cu_q, "cu_seqlens_k": case.cu_k, "key_sequence": case.reads}
        options = self.options(packed_form(case)) | layout
        arrays = [self.leaves[name] for name in ("query", "key", "value")]
        out, aux = attention(*arrays, **options, return_aux=Aux(lse=True))
        return self.finish(out, aux.lse, self.up_out, self.up_lse)

    def padded(self, poison=math.nan):
        """As padded arrays, whose padding holds `poison`, in the gradients that come back too."""
        case, form = self.case, padded_form(self.case)
        options = self.options(form)
        options["mask"] = padded_mask(case, options.get("mask"))
        query = _scattered(self.leaves["query"], form.q_tokens, poison)
        key, value = (_scattered(self.leaves[name], form.k_tokens, poison) for name in ("key", "value"))
        out, aux = attention(query, key, value, **options, return_aux=Aux(lse=True))
        up_out, up_lse = (_scattered(up, form.q_tokens, poison) for up in (self.up_out, self.up_lse))
        found = self.finish(out, aux.lse, up_out, up_lse)
        real = torch.from_numpy(form.q_tokens >= 0)
        assert (found["out"][~real] == 0).all()
        assert (found["lse"][~real] == -torch.inf).all()
        return found | {"out": found["out"][real], "lse": found["lse"][real]}

    def singly(self):
        """One call for every sequence; only without dropout, which knows the sequence's number."""
        case, outs, lses = self.case, [], []
        for n in range(len(case.reads)):
            form = single_form(case, n)
            options = self.options(form)
            query, key, value = (
                self.leaves[name][torch.from_numpy(tokens)]
                for name, tokens in (
                    ("query", form.q_tokens),
                    ("key", form.k_tokens),
                    ("value", form.k_tokens),
                )
            )
            out, aux = attention(query, key, value, **options, return_aux=Aux(lse=True))
            outs.append(out)
            lses.append(aux.lse)
        return self.finish(torch.cat(outs), torch.cat(lses), self.up_out, self.up_lse)

    def finish(self, out, lse, up_out, up_lse):
        found = {"out": out.detach(), "lse": lse.detach()}
        if not out.requires_grad:  # no token at all: the arrays were made anew
            return found
        grads = torch.autograd.grad(
            [out, lse], list(self.leaves.values()), [up_out, up_lse], allow_unused=True
        )
        for (name, leaf), grad in zip(self.leaves.items(), grads, strict=True):
            found[name] = torch.zeros_like(leaf) if grad is None else grad
        return found


def _scattered(flat, tokens, poison):
    rows = (
        flat[torch.from_numpy(np.maximum(tokens, 0))]
        if len(flat)
        else flat.new_zeros(*tokens.shape, *flat.shape[1:])
    )
    real = torch.from_numpy(tokens >= 0).reshape(*tokens.shape, *(1,) * (flat.ndim - 1))
    return torch.where(real, rows, poison)


def numpy_padded(case, poison=math.nan):
    """Output and lse of the padded call on NumPy, padding poisoned."""
    form = padded_form(case)
    options = options_of(case, form)
    options["mask"] = padded_mask(case, options.get("mask"))
    arrays = [
        _scattered(torch.from_numpy(case.arrays[name]), tokens, poison).numpy()
        for name, tokens in (("query", form.q_tokens), ("key", form.k_tokens), ("value", form.k_tokens))
    ]
    out, aux = attention(*arrays, **options, return_aux=Aux(lse=True))
    real = form.q_tokens >= 0
    return {"out": out[real], "lse": aux.lse[real]}


def numpy_singly(case):
    outs, lses = [], []
    for n in range(len(case.reads)):
        form = single_form(case, n)
        options = options_of(case, form)
        arrays = (
            case.arrays["query"][form.q_tokens],
            case.arrays["key"][form.k_tokens],
            case.arrays["value"][form.k_tokens],
        )
        out, aux = attention(*arrays, **options, return_aux=Aux(lse=True))
        outs.append(out)
        lses.append(aux.lse)
    return {"out": np.concatenate(outs), "lse": np.concatenate(lses)}


@st.composite
def cases(draw, longest=6, masks=True, dropout=True):
    """Any call of the contract with up to four sequences of up to `longest` tokens."""
    count = draw(st.integers(1, 4))
    length = st.one_of(st.integers(0, 2), st.integers(0, longest))
    q_lengths = np.array(draw(st.lists(length, min_size=count, max_size=count)))
    shared = draw(st.booleans())
    key_count = draw(st.integers(1, 3)) if shared else count
    k_lengths = np.array(draw(st.lists(length, min_size=key_count, max_size=key_count)))
    which = st.lists(st.integers(0, key_count - 1), min_size=count, max_size=count)
    reads = np.array(draw(which)) if shared else np.arange(count)
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (3, 1)]))
    size, out_size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    q_total, k_total = int(q_lengths.sum()), int(k_lengths.sum())
    shapes = {
        "query": (q_total, heads, size),
        "key": (k_total, kv_heads, size),
        "value": (k_total, kv_heads, out_size),
        "grad_out": (q_total, heads, out_size),
        "grad_lse": (q_total, heads),
    }
    if draw(st.booleans()):
        shapes["sinks"] = (heads,)
    limits = count, heads, int(q_lengths.max(initial=1)) or 1, int(k_lengths[reads].max(initial=1)) or 1
    bias = draw(st.sampled_from([None, "bias", "slopes", "table"]))
    buckets = {"bidirectional": draw(st.booleans()), "max_distance": draw(st.sampled_from([4, 8]))}
    if bias == "slopes":
        shapes["slopes"] = (heads,)
    elif bias == "table":
        shapes["table"] = (draw(st.sampled_from([4, 6])), heads)
    elif bias == "bias":
        # Where a dimension is neither 1 nor the whole, pairs outside the array are masked.
        whole = tuple(draw(st.sampled_from([1, limit])) for limit in limits[:2])
        inner = tuple(draw(st.sampled_from([1, limit, limit + 1, max(1, limit - 1)])) for limit in limits[2:])
        shapes["bias"] = (whole + inner)[4 - draw(st.integers(2, 4)) :]
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if bias in ("bias", "table") and draw(st.booleans()):
        arrays[bias][rng.random(arrays[bias].shape) < 0.3] = -math.inf
    if "sinks" in arrays and draw(st.booleans()):
        arrays["sinks"][0] = -math.inf
    starts = st.one_of(st.none(), st.integers(-3, 3), st.just("each"))
    query_start = draw(starts)
    if query_start == "each":
        query_start = rng.integers(-3, 4, count)
    options = {
        "softcap": draw(st.sampled_from([None, 0.8])),
        "scale": draw(st.sampled_from([None, 0.7])),
        "dropout_p": draw(st.sampled_from([0.0, 0.4])) if dropout else 0.0,
        "seed": draw(st.integers(-(2**63), 2**63 - 1)),
    }
    tree = draw(_trees(rng, q_lengths, k_lengths[reads], (q_total, k_total), limits)) if masks else None
    return Case(q_lengths, k_lengths, reads, arrays, tree, query_start, options, buckets)


def _trees(rng, q_lengths, k_lengths, totals, limits):
    distance = st.one_of(st.integers(0, 4), st.just(math.inf))
    count = len(q_lengths)
    lengths = st.sampled_from(["q", "k", "both"]).map(
        lambda sides: (
            "lengths",
            None if sides == "k" else rng.integers(0, q_lengths + 1),
            None if sides == "q" else rng.integers(0, k_lengths + 1),
        )
    )
    dense = st.tuples(*(st.sampled_from([1, limit]) for limit in limits), st.integers(2, 4)).map(
        lambda shape: ("dense", rng.random(shape[4 - shape[4] : 4]) < 0.7)
    )
    leaves = st.one_of(
        st.just(("causal",)),
        st.tuples(st.just("window"), distance, distance, st.integers(1, 3)),
        st.tuples(st.just("prefix"), st.integers(0, 4)),
        st.builds(lambda: ("prefix", rng.integers(0, 5, count))),
        st.tuples(st.just("global"), st.lists(st.integers(0, 5), max_size=2).map(tuple)),
        st.builds(lambda: ("documents", *(rng.integers(0, 2, total) for total in totals))),
        lengths,
        dense,
    )
    pairs = st.sampled_from(["and", "or"])
    tree = st.recursive(
        leaves,
        lambda part: st.one_of(st.tuples(pairs, part, part), st.tuples(st.just("not"), part)),
        max_leaves=3,
    )
    return st.one_of(st.none(), st.just(("causal",)), tree)
