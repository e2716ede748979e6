"""Attention as primitives of JAX: what jit, grad, jvp, vmap and each kind of device do with it.

`attention` is what users call. Its derivative is `tangent`, linear in what moves; transposed, that is `backward`. Derivatives of these come
from the tiled formulation's own operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from regard._choice import no_backend
from regard._lowering import STORED, beyond_sizes, kernel, missing
from regard.backends.jax import native, tiled
from regard.backends.jax.request import Request, precision_of


def _primitive(name: str) -> Primitive:
    made = Primitive(f"regard_{name}")
    made.multiple_results = True
    made.def_impl(functools.partial(_at_once, made))
    return made


def _at_once(primitive: Primitive, *operands: Any, **options: Any) -> Any:
    """A call outside of any compiled program: straight by the kernel where it can, until the same call comes often."""
    compiled = _Compiled.of(
        primitive, tuple(options.items()), tuple((array.shape, array.dtype) for array in operands)
    )
    compiled.calls += 1
    name = _NATIVE.get(primitive.name)
    if compiled.calls < _OFTEN and name is not None and all(_is_here(array) for array in operands):
        request: Request = options["request"]
        if _room(request, "cpu", operands[:3]) is native:
            flags = tuple(value for key, value in options.items() if key != "request")
            return native.at_once(
                name, request, flags, operands, primitive.abstract_eval(*operands, **options)[0]
            )
    return compiled.program(*operands)


# Ragged calls, each of other lengths, would be compiled for each; a loop over the same shapes is quicker compiled.
_OFTEN = 8
_NATIVE = {"regard_attention": "forward", "regard_attention_backward": "backward"}


class _Compiled:
    """A call of certain shapes: how often it came, and its program, which is compiled when it is first run."""

    def __init__(self, primitive: Primitive, options: tuple[tuple[str, Any], ...]) -> None:
        self.calls = 0
        self.program = _program(primitive, options)

    @staticmethod
    @lru_cache(maxsize=4096)
    def of(primitive: Primitive, options: tuple[tuple[str, Any], ...], _shapes: Any) -> _Compiled:
        return _Compiled(primitive, options)


@lru_cache(maxsize=512)
def _program(primitive: Primitive, options: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(lambda *operands: primitive.bind(*operands, **dict(options)))


def _is_here(array: Any) -> bool:
    """Whether an array lies whole on one CPU."""
    if not isinstance(array, jax.Array):
        return True
    devices: Any = array.sharding.device_set
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


attention_p, tangent_p, backward_p = map(_primitive, ("attention", "attention_tangent", "attention_backward"))


def attend(operands: Sequence[Any], request: Request) -> tuple[Any, Any]:
    """Output (..., T, H, V) and lse (..., T, H) of a call's operands, as `Request.opened` names them."""
    out, lse = attention_p.bind(*operands, request=request)
    return out, lse


# Shapes.


def _attention_shapes(query: Any, _key: Any, value: Any, *_: Any, request: Request) -> list[ShapedArray]:
    kind = precision_of(query.dtype)
    shape = query.shape[:-1]
    out = ShapedArray((*shape, value.shape[-1]), kind if request.wide else query.dtype)
    return [out, ShapedArray(shape, kind)]


def _tangent_shapes(*operands: Any, request: Request, moving: tuple[bool, ...]) -> list[ShapedArray]:
    return _attention_shapes(*operands[: -sum(moving)], request=request)


def _backward_shapes(
    *operands: Any, request: Request, wanted: tuple[bool, ...], with_lse: bool
) -> list[ShapedArray]:
    given = request.opened(operands[: -4 if with_lse else -3])
    arrays = (given.query, given.key, given.value, given.bias, given.sinks)
    return [ShapedArray(array.shape, array.dtype) for array, some in zip(arrays, wanted, strict=True) if some]


attention_p.def_abstract_eval(_attention_shapes)
tangent_p.def_abstract_eval(_tangent_shapes)
backward_p.def_abstract_eval(_backward_shapes)


# Derivatives.


def _differentiable(request: Request, operands: Sequence[Any]) -> list[Any]:
    """What stands at the places of query, key, value, bias and sinks."""
    given = request.opened(operands)
    return [given.query, given.key, given.value, given.bias, given.sinks]


def _attention_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, request: Request) -> tuple[Any, Any]:
    # The rounding of the output that the backward pass starts from would be multiplied by the mean of the keys.
    out, lse = attention_p.bind(*primals, request=replace(request, wide=True))
    along = _differentiable(request, tangents)
    moving = tuple(tangent is not None and type(tangent) is not ad.Zero for tangent in along)
    rounded = out if request.wide else out.astype(primals[0].dtype)
    if not any(moving):
        return [rounded, lse], [_no_tangent(rounded), _no_tangent(lse)]
    some = [tangent for tangent, moves in zip(along, moving, strict=True) if moves]
    moved = tangent_p.bind(*primals, out, lse, *some, request=request, moving=moving)
    return [rounded, lse], moved


def _no_tangent(array: Any) -> Any:
    return ad.Zero(ShapedArray(array.shape, array.dtype))


def _tangent_transpose(
    cotangents: Sequence[Any], *operands: Any, request: Request, moving: tuple[bool, ...]
) -> list[Any]:
    count = sum(moving)
    given = operands[:-count]
    nothing: list[Any] = [None] * len(given)
    grad_out, grad_lse = cotangents
    with_lse = type(grad_lse) is not ad.Zero
    if type(grad_out) is ad.Zero and not with_lse:
        return nothing + [ad.Zero(operand.aval) for operand in operands[-count:]]
    above = [ad.instantiate_zeros(grad_out), *([grad_lse] if with_lse else [])]
    return nothing + backward_p.bind(*given, *above, request=request, wanted=moving, with_lse=with_lse)


def _by_operations(function: Callable[..., Any]) -> Callable[..., Any]:
    """The derivative of a primitive as that of a function of jax.numpy."""

    def rule(primals: Sequence[Any], tangents: Sequence[Any], **options: Any) -> tuple[Any, Any]:
        moves = [type(tangent) is not ad.Zero for tangent in tangents]

        def moved(*some: Any) -> Any:
            given = iter(some)
            operands = [next(given) if move else primal for primal, move in zip(primals, moves, strict=True)]
            return list(function(*operands, **options, bounded=True))

        chosen = [primal for primal, move in zip(primals, moves, strict=True) if move]
        along = [tangent for tangent, move in zip(tangents, moves, strict=True) if move]
        return jax.jvp(moved, chosen, along)

    return rule


ad.primitive_jvps[attention_p] = _attention_jvp
ad.primitive_jvps[tangent_p] = _by_operations(tiled.tangent)
ad.primitive_jvps[backward_p] = _by_operations(tiled.backward)
ad.primitive_transposes[tangent_p] = _tangent_transpose


# Mapping.


def _mapped(primitive: Primitive) -> Callable[..., Any]:
    """One call with a leading dimension more where that means the same, else one example after the other."""

    def rule(operands: Sequence[Any], dims: Sequence[Any], *, request: Request, **options: Any) -> Any:
        size = next(array.shape[dim] for array, dim in zip(operands, dims, strict=True) if dim is not None)
        moved = [
            array if dim is None else jnp.moveaxis(array, dim, 0)
            for array, dim in zip(operands, dims, strict=True)
        ]
        held = [dim is not None for dim in dims]
        if _folds(request, operands, primitive):
            ranks = [array.ndim - is_held for array, is_held in zip(moved, held, strict=True)]
            found = primitive.bind(
                *(_fitted(array, size, is_held, max(ranks[:3]) - rank) for array, is_held, rank in zip(moved, held, ranks, strict=True)),
                request=request, **options,
            )  # fmt: skip
            return found, [0] * len(found)

        def one(some: Sequence[Any]) -> Any:
            given = iter(some)
            each = [next(given) if is_held else array for array, is_held in zip(moved, held, strict=True)]
            return primitive.bind(*each, request=request, **options)

        found = jax.lax.map(one, [array for array, is_held in zip(moved, held, strict=True) if is_held])
        return found, [0] * len(found)

    return rule


def _folds(request: Request, operands: Sequence[Any], primitive: Primitive) -> bool:
    """Whether nothing depends on which sequence it is: padded arrays, masks by formula, no bias, sinks and dropout.

    Of the derivatives, only those whose arrays all have the dimensions of the query.
    """
    plain = primitive is attention_p and len(operands) == 3 and not any(request.given)
    return plain and request.form.split()[1] == "none"


def _fitted(array: Any, size: int, is_held: bool, missing_dims: int) -> Any:
    if not is_held:
        array = jnp.broadcast_to(array, (size, *array.shape))
    return array.reshape(size, *(1,) * missing_dims, *array.shape[1:])


for _one in (attention_p, tangent_p, backward_p):
    batching.primitive_batchers[_one] = _mapped(_one)


# Devices.


def _room(request: Request, platform: str, arrays: Sequence[Any]) -> Any:
    """Who computes a call on a kind of device: the first of the wanted backends that can."""
    reasons = []
    refused = beyond_sizes(*(array.shape for array in arrays))
    if arrays[0].dtype.name not in STORED:
        refused = f"reads {', '.join(STORED)}, these arrays are {arrays[0].dtype}"
    for name in request.backends:
        if name == "tiled":
            return tiled
        if platform != "cpu":
            reasons.append(f"'native' computes on a CPU, this program is for {platform}")
        elif kernel() is None:
            reasons.append(f"'native' {missing}")
        elif refused is not None:
            reasons.append(f"'native' {refused}")
        else:
            return native
    raise no_backend("jax", reasons)


def _lowered(name: str, platform: str) -> Any:
    def compute(*operands: Any, request: Request, **options: Any) -> Any:
        return list(
            getattr(_room(request, platform, operands[:3]), name)(*operands, request=request, **options)
        )

    return mlir.lower_fun(compute, multiple_results=True)


for _platform in ("cpu", "cuda", "rocm", "tpu"):
    mlir.register_lowering(attention_p, _lowered("forward", _platform), platform=_platform)
    mlir.register_lowering(backward_p, _lowered("backward", _platform), platform=_platform)
mlir.register_lowering(
    tangent_p,
    mlir.lower_fun(
        lambda *operands, **options: list(tiled.tangent(*operands, **options)), multiple_results=True
    ),
)
