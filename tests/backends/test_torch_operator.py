"""The operator under tracers and transforms: torch.compile, torch.export, fake tensors, vmap, autocast."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from regard import (
    Alibi,
    Aux,
    BackendError,
    Causal,
    Dense,
    DenseBias,
    Documents,
    Global,
    Lengths,
    Mask,
    Packed,
    Prefix,
    RegardError,
    RelativeBias,
    ShapeError,
    Window,
    attention,
)
from regard._lowering import kernel
from regard.backends.torch import operator  # noqa: F401  (torch.ops knows it from then on)
from regard.nn import SelfAttention

GENERATOR = torch.Generator().manual_seed(0)
OFFSETS = [0, 3, 3, 10]
SEES_NOTHING_BUT_ITSELF = ~(Window(math.inf, 0) & ~Window(0))


# PyTorch itself makes a function's context where it traces one, and inductor loads what is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()


def random(*shape):
    return torch.randn(shape, generator=GENERATOR)


def draw(*rows, heads=4, kv_heads=2, size=8, out_size=5):
    return random(*rows, heads, size), random(*rows, kv_heads, size), random(*rows, kv_heads, out_size)


def run(function, arrays, **options):
    """The result, as a tuple, and the gradients of what floats."""
    leaves = [
        array.detach().clone().requires_grad_(array.is_floating_point())
        if isinstance(array, torch.Tensor)
        else array
        for array in arrays
    ]
    wanted = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    result = function(*leaves, **options)
    out = result if isinstance(result, tuple) else (result,)
    return (*out, *torch.autograd.grad(sum(part.square().sum() for part in out), wanted))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def weigh(query, key, value):
    return attention(query, key, value, cu_seqlens_q=OFFSETS, return_aux=Aux(lse=True))


# Each takes query, key and value of ten tokens, then what is listed with it.
CALLS = {
    "packed": (lambda q, k, v: attention(q, k, v, cu_seqlens_q=OFFSETS), ()),
    "offsets as an array": (
        lambda q, k, v, o: attention(q, k, v, cu_seqlens_q=o, mask=Causal() & Window(2)),
        (np.array(OFFSETS),),
    ),
    "key sequences": (
        lambda q, k, v, o: attention(q, k, v, cu_seqlens_q=o, cu_seqlens_k=[0, 4, 10], key_sequence=[1, 0, 1]),
        (torch.tensor(OFFSETS),),
    ),
    "mask by values": (
        lambda q, k, v: attention(q, k, v, cu_seqlens_q=OFFSETS, mask=Window(math.inf, 1) & Prefix(2) | Global([0])),
        (),
    ),
    "mask by arrays": (
        lambda q, k, v, n, ids: attention(
            q, k, v, cu_seqlens_q=OFFSETS, mask=Prefix(n) | Lengths(k=[1, 0, 2]) & Documents(ids)
        ),
        (torch.tensor([1, 0, 4]), torch.arange(10) // 2),
    ),
    "mask from outside": (
        lambda q, k, v: attention(q, k, v, cu_seqlens_q=OFFSETS, mask=SEES_NOTHING_BUT_ITSELF, query_start=[2, 0, -1]),
        (),
    ),
    "dense": (
        lambda q, k, v, b: attention(q, k, v, cu_seqlens_q=OFFSETS, mask=Dense(b > -1), bias=DenseBias(b)),
        (random(4, 7, 7),),
    ),
    "alibi": (lambda q, k, v, s: attention(q, k, v, cu_seqlens_q=OFFSETS, bias=Alibi(s)), (random(4),)),
    "table": (
        lambda q, k, v, t: attention(q, k, v, cu_seqlens_q=OFFSETS, bias=RelativeBias(t, max_distance=4)),
        (random(6, 4),),
    ),
    "sinks": (
        lambda q, k, v, s: attention(q, k, v, cu_seqlens_q=OFFSETS, sinks=s, scale=0.3, softcap=2.0, mask=Causal()),
        (random(4),),
    ),
    "dropout": (lambda q, k, v: attention(q, k, v, cu_seqlens_q=OFFSETS, dropout_p=0.3, seed=2**64 - 5), ()),
    "seed as a tensor": (
        lambda q, k, v, s: attention(q, k, v, cu_seqlens_q=OFFSETS, dropout_p=0.3, seed=s),
        (torch.tensor(-5),),
    ),
    "lse": (lambda q, k, v: (weigh(q, k, v)[1].lse + weigh(q, k, v)[0].sum(-1)), ()),
    "tiled": (lambda q, k, v: attention(q, k, v, cu_seqlens_q=OFFSETS, backend="tiled", mask=Causal()), ()),
    "padded": (
        lambda q, k, v: attention(q.view(2, 5, 4, 8), k.view(1, 2, 5, 2, 8), v.view(1, 2, 5, 2, 5), mask=Causal()),
        (),
    ),
    "padded, arrays": (
        lambda q, k, v, b: attention(q[None], k[:4], v[:4], mask=b > -0.5, bias=b, query_start=1),
        (random(1, 4, 10, 4),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_compiled_calls_give_what_eager_ones_give(name, dtype):
    function, others = CALLS[name]
    arrays = *(array.to(dtype) for array in draw(10)), *others
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, arrays), run(function, arrays))


def test_compiled_gradients_of_long_sequences_in_bfloat16_are_rounded_once():
    """Where keys have a mean, the rounding of the output would come back in the queries' gradients."""
    arrays = [(array + 1).bfloat16() for array in draw(300)]
    compiled = torch.compile(
        lambda *arrays: attention(*arrays, mask=Causal()), fullgraph=True, backend="aot_eager"
    )
    exact = run(lambda *arrays: attention(*arrays, mask=Causal()), [array.float() for array in arrays])
    found = run(lambda *arrays: compiled(*arrays).float(), arrays)
    # The matrix unit of some machines multiplies rounded weights.
    most = 2**-7 if kernel() and kernel().instruction_set() == "amx" else 2**-8
    for one, other in zip(found[1:], exact[1:], strict=True):
        assert (one.float() - other).norm() <= most * other.norm()


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_compiles_what_stands_around_it():
    def function(query, key, value, offsets):
        return attention(query.sin(), key, value, cu_seqlens_q=offsets, mask=Causal()).cos()

    arrays = *draw(10), np.array(OFFSETS)
    for found, expected in zip(
        run(torch.compile(function, fullgraph=True), arrays), run(function, arrays), strict=True
    ):
        torch.testing.assert_close(found, expected)


class Record(TorchDispatchMode):
    """Keeps the arguments of the operator's calls."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.regard.attention.default:
            self.calls.append(args)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name", ["packed", "dense", "alibi", "table", "sinks", "dropout", "padded", "mask by arrays"]
)
def test_the_library_is_told_the_truth(name, dtype):
    function, others = CALLS[name]
    with Record() as record:
        function(*(array.to(dtype) for array in draw(10)), *others)
    (call,) = record.calls
    call = [
        given.detach().clone().requires_grad_()
        if isinstance(given, torch.Tensor) and given.is_floating_point()
        else given
        for given in call
    ]
    torch.library.opcheck(torch.ops.regard.attention.default, call)


# Lengths that change.


def ragged(count):
    rng = np.random.default_rng(0)
    for number in rng.integers(2, 9, count):
        yield np.concatenate([[0], np.cumsum(rng.integers(0, 7, number)), [60 + number]]).astype(np.int32)


def test_twenty_ragged_batches_compile_twice():
    counter = CompileCounterWithBackend("aot_eager")

    def function(query, key, value, offsets):
        return attention(query, key, value, cu_seqlens_q=offsets, mask=Causal())

    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for offsets in ragged(20):
        arrays = *draw(int(offsets[-1])), offsets
        assert_same(run(compiled, arrays), run(function, arrays))
    assert counter.frame_count <= 2


def test_a_packed_batch_goes_in_and_comes_out():
    counter = CompileCounterWithBackend("aot_eager")
    layer = SelfAttention(16, heads=2, qk_norm=True)
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for offsets in ragged(6):
        batch = Packed(random(int(offsets[-1]), 16), offsets)
        found, expected = compiled(batch, mask=Causal()), layer(batch, mask=Causal())
        assert isinstance(found, Packed)
        np.testing.assert_array_equal(found.offsets, offsets)
        torch.testing.assert_close(found.values, expected.values)
    assert counter.frame_count <= 2


def test_a_packed_batch_may_be_made_inside():
    def function(values):
        batch = Packed(values, OFFSETS)
        return attention(batch, batch, batch, mask=Causal())

    values = random(10, 2, 8)
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(values)
    np.testing.assert_array_equal(found.offsets, OFFSETS)
    assert torch.equal(found.values, function(values).values)


def test_queries_one_after_the_other_compile_twice():
    counter = CompileCounterWithBackend("aot_eager")

    def function(query, key, start):
        return attention(query, key, key, mask=Causal() & Window(start + 1), query_start=start)

    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for start in range(2, 7):
        query, key = random(2, start, 4, 8), random(2, 9 + start, 2, 8)
        assert torch.equal(compiled(query, key, start), function(query, key, start))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("mask", [Causal(), Documents(torch.arange(10) // 3), None])
def test_tokens_past_the_last_offset_give_nothing(mask):
    arrays = draw(10)
    for array in arrays[1:]:
        array[7:] = math.nan

    def function(query, key, value):
        out, aux = attention(query, key, value, cu_seqlens_q=[0, 3, 7], mask=mask, return_aux=Aux(lse=True))
        return out, aux.lse

    with pytest.raises(ShapeError, match="must start at 0 and end at the number of tokens, 10"):
        function(*arrays)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaves = [array.requires_grad_() for array in arrays]
    out, lse = compiled(*leaves)
    assert (out[7:] == 0).all()
    assert (lse[7:] == -math.inf).all()
    assert out.isfinite().all()
    for grad in torch.autograd.grad(out.square().sum(), leaves):
        assert (grad[7:] == 0).all()
        assert grad.isfinite().all()


def test_offsets_beyond_the_array_are_refused_as_they_arrive():
    compiled = torch.compile(
        lambda array, offsets: attention(array, array, array, cu_seqlens_q=offsets), backend="aot_eager"
    )
    with pytest.raises(
        ShapeError, match=r"cu_seqlens_q must end within the array's 5 tokens. Received a last"
    ):
        compiled(random(5, 2, 8), np.array([0, 6]))


# Other tracers.


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(16, 48)

    def forward(self, batch):
        heads = self.project(batch.values).unflatten(-1, (3, 2, 8)).unbind(1)
        found = attention(*heads, cu_seqlens_q=batch.offsets, mask=Causal() | Prefix(2))
        return batch.with_values(found.flatten(1))


def test_export_with_lengths_that_change():
    model, free = Model(), torch.export.Dim.AUTO
    example = Packed(random(10, 16), [0, 3, 5, 10])
    program = torch.export.export(model, (example,), dynamic_shapes=([{0: free}, {0: free}],), strict=False)
    batch = Packed(random(12, 16), [0, 3, 3, 5, 12])
    found = program.module()(batch)
    assert isinstance(found, Packed)
    assert torch.equal(found.values, model(batch).values)


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_plain_arrays(strict):
    class Plain(torch.nn.Module):
        def forward(self, array, offsets):
            return attention(array, array, array, cu_seqlens_q=offsets, mask=Causal() & Window(2))

    free = torch.export.Dim.AUTO
    shapes = {"array": {0: free}, "offsets": {0: free}}
    example = random(10, 2, 8), torch.tensor([0, 3, 10])
    program = torch.export.export(Plain(), example, dynamic_shapes=shapes, strict=strict)
    array, offsets = random(12, 2, 8), torch.tensor([0, 3, 3, 12])
    assert torch.equal(program.module()(array, offsets), Plain()(array, offsets))


def test_fake_tensors_have_shapes():
    with FakeTensorMode():
        query, key, value = draw(10)
        out, aux = attention(
            query,
            key,
            value,
            cu_seqlens_q=np.array(OFFSETS),
            mask=Prefix([1, 0, 2]),
            return_aux=Aux(lse=True),
        )
        assert out.shape == (10, 4, 5)
        assert aux.lse.shape == (10, 4)
        batch = Packed(query.bfloat16(), OFFSETS)
        assert attention(batch, batch, batch).values.dtype == torch.bfloat16
        assert attention(*draw(2, 3), mask=torch.ones(3, 3) > 0).shape == (2, 3, 4, 5)
        with pytest.raises(ShapeError, match="query and key must agree in head size"):
            attention(query, value, value)


def test_a_packed_batch_is_a_tree_of_two_tensors():
    batch = Packed(random(10, 2), OFFSETS)
    leaves, tree = _pytree.tree_flatten(batch)
    assert [leaf.dtype for leaf in leaves] == [torch.float32, torch.int32]
    again = _pytree.tree_unflatten(leaves, tree)
    assert again.values is batch.values
    np.testing.assert_array_equal(again.offsets, OFFSETS)
    assert _pytree.tree_map(lambda leaf: leaf + 0, batch).lengths.tolist() == [3, 0, 7]


def test_autocast_is_as_in_eager():
    layer = SelfAttention(16, heads=2)

    def function(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(batch, mask=Causal()).values

    batch = Packed(random(10, 16), OFFSETS)
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(batch)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, function(batch))


# Transforms.

MAPPED = [(0, 0, 0), (1, None, None), (None, 0, 2), (0, None, 0)]


def spread(arrays, dims):
    """Examples of each array along its mapped dimension."""
    return [array if dim is None else array.movedim(0, dim) for array, dim in zip(arrays, dims, strict=True)]


@pytest.mark.parametrize("dims", MAPPED)
@pytest.mark.parametrize("options", [{"mask": Causal()}, {"bias": Alibi(random(4)), "sinks": random(4)}])
def test_vmap_of_padded_calls_and_their_gradients(dims, options):
    def function(query, key, value):
        return attention(query, key, value, **options)

    gradients = torch.func.grad(lambda *arrays: function(*arrays).square().sum(), argnums=(0, 1, 2))
    arrays = draw(3, 2, 5)
    arrays = [array[0] if dim is None else array for array, dim in zip(arrays, dims, strict=True)]

    def example(number):
        return [array if dim is None else array[number] for array, dim in zip(arrays, dims, strict=True)]

    found = torch.vmap(function, dims)(*spread(arrays, dims))
    torch.testing.assert_close(found, torch.stack([function(*example(number)) for number in range(3)]))
    each = torch.vmap(gradients, dims)(*spread(arrays, dims))
    for number in range(3):
        for grad, expected in zip(each, gradients(*example(number)), strict=True):
            torch.testing.assert_close(grad[number], expected)
    leaves = [array.requires_grad_() for array in spread(arrays, dims)]
    summed = torch.autograd.grad(torch.vmap(function, dims)(*leaves).square().sum(), leaves)
    for grad, parts, dim in zip(summed, each, dims, strict=True):
        torch.testing.assert_close(grad, parts.sum(0) if dim is None else parts.movedim(0, dim))


def test_vmap_of_packed_calls_with_offsets_and_masks_of_their_own():
    arrays, offsets = draw(3, 5), torch.tensor([[0, 2, 5], [0, 5, 5], [0, 1, 5]])

    def function(query, key, value, offsets, slopes):
        options = {"bias": Alibi(slopes), "mask": Prefix(offsets[1:]), "dropout_p": 0.2, "seed": 1}
        return attention(query, key, value, cu_seqlens_q=offsets, **options)

    given = *arrays, offsets, random(3, 4)
    expected = torch.stack([function(*(array[number] for array in given)) for number in range(3)])
    torch.testing.assert_close(torch.vmap(function)(*given), expected)


def test_vmap_is_one_call_where_that_means_the_same():
    with Record() as record:
        torch.vmap(lambda *arrays: attention(*arrays, mask=Causal()))(*draw(3, 2, 5))
    assert len(record.calls) == 1


def test_compiled_vmap():
    def function(*arrays):
        return torch.vmap(lambda query, key, value: attention(query, key, value, mask=Causal()))(*arrays)

    arrays = draw(3, 2, 5)
    assert_same(
        run(torch.compile(function, fullgraph=True, backend="aot_eager"), arrays), run(function, arrays)
    )


# What is refused, and how.


def test_what_a_traced_call_cannot_do_is_said():
    class Odd(Mask):
        pass

    query, key, value = draw(10)
    with Record():
        with pytest.raises(RegardError, match=r"regard's own masks and biases. Received Odd"):
            attention(query, key, value, mask=Odd())
        with pytest.raises(RegardError, match="under a tracer, return_aux gives the lse alone"):
            attention(query, key, value, return_aux=Aux(topk=2))
        with pytest.raises(BackendError, match="'reference' computes numpy arrays, these are torch"):
            attention(query, key, value, backend="reference")
        with pytest.raises(RegardError, match="dropout needs a seed"):
            attention(query, key, value, dropout_p=0.5)
        leaf = query.requires_grad_()
        (grad,) = torch.autograd.grad(attention(leaf, key, value).square().sum(), leaf, create_graph=True)
        with pytest.raises(RegardError, match="second derivatives of attention can't be traced or mapped"):
            grad.sum().backward()
