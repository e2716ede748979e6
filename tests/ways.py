"""The ways in which a call can be computed: by the plain backends, and by the kernel on every instruction set of this machine."""

from __future__ import annotations

import contextlib
from unittest import mock

from regard import _choice
from regard._lowering import kernel
from regard._plan import remembered_plan
from regard.backends.tensorflow import blocks as tensorflow_blocks
from regard.backends.torch import tiling

PLAIN = {"numpy": ("reference",), "torch": ("tiled",), "tensorflow": ("tiled",)}
INSTRUCTION_SETS = kernel().instruction_sets() if kernel() else []
WAYS = ["plain", *(name for name in INSTRUCTION_SETS if name != "amx")]  # that has the vectors of avx512


@contextlib.contextmanager
def used(way):
    """Let `attention` compute in one of `WAYS`."""
    if way == "plain":
        with mock.patch.dict(_choice.BACKENDS, PLAIN):
            yield
        return
    module = kernel()
    before = module.instruction_set()
    module.use_instruction_set(way)
    try:
        yield
    finally:
        module.use_instruction_set(before)


@contextlib.contextmanager
def small_tiles(block=4, chunk=8, scores=64):
    """Cut the work of `tiled` so small that short sequences have many blocks, chunks and groups."""
    remembered_plan.cache_clear()
    sizes = {"QUERY_BLOCK": block, "KEY_CHUNK": chunk, "SCORES_PER_GROUP": scores}
    try:
        with mock.patch.multiple(tiling, **sizes), mock.patch.multiple(tensorflow_blocks, **sizes):
            yield
    finally:
        remembered_plan.cache_clear()
