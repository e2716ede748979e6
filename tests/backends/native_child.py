"""Run as a program of its own: the kernel on its own threads or on OpenMP's, forked, or from several threads at once.

`python native_child.py bits own|openmp` prints, for every instruction set and every case, how many different results there
are on 1, 2, 3 and 7 threads, and a digest of the first.
`python native_child.py fork own|torch` uses the pool, forks, and says whether both processes found the same.
`python native_child.py crowd own|openmp` calls from several Python threads at once.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from regard import Alibi, Causal, Dense, DenseBias, Documents, Global, RelativeBias, Window, _lowering
from regard._lowering import kernel, threads

RNG = np.random.default_rng(0)
RAGGED = [300, 1, 0, 129, 45, 64, 7, 200]
CASES = {
    "plain": {},
    "causal": {"mask": Causal()},
    "several boxes": {"mask": Causal() & Window(30) | Global([0, 128])},
    "documents": {"mask": Documents(np.repeat(np.arange(75), 10)[:746])},
    "bits": {"mask": Dense(RNG.random((4, 300, 300)) < 0.5)},
    "dilated": {"mask": Window(math.inf, dilation=3)},
    "dropout": {"mask": Causal(), "dropout_p": 0.2, "seed": 1},
    "soft cap and sinks": {"softcap": 2.0, "sinks": [0.0, 1.0, 2.0, -np.inf]},
    "slopes": {"bias": Alibi.for_heads(4), "mask": Causal()},
    "table": {"bias": RelativeBias(RNG.normal(size=(8, 4)))},
    "bias of one number": {"bias": DenseBias(RNG.normal(size=(1, 1)))},
    "bias by pair": {"bias": DenseBias(RNG.normal(size=(300, 300)))},
    "bias by head": {"bias": DenseBias(RNG.normal(size=(4, 1, 300)))},
    "bias by sequence": {"bias": DenseBias(RNG.normal(size=(8, 1, 300, 1)))},
    "bias by all": {"bias": DenseBias(RNG.normal(size=(8, 4, 300, 300)))},
    "shared keys": {"key_sequence": [0, 1, 1, 0, 0, 2, 1, 0], "k_lengths": [700, 300, 5], "mask": Causal()},
    "shared keys, bias": {"key_sequence": [0] * 8, "k_lengths": [400], "bias": Alibi.for_heads(4)},
    "decoding": {"q_lengths": [1, 2, 1], "k_lengths": [9000, 20_000, 3]},
    "long": {"q_lengths": [2000], "mask": Causal()},
}  # fmt: skip


def call_of(name, dtype):
    import ragged

    options = dict(CASES[name])
    lengths = options.pop("q_lengths", RAGGED), options.pop("k_lengths", None)
    return ragged.packed(*lengths, dtype=dtype, layout=(4, 2, 16, 24), **options)


def everything(call):
    import ragged
    from regard.backends import native

    found = ragged.computed(native, call)
    looked = ragged.looked_at(native, call, ragged.EVERYTHING)
    return [*found.values(), looked.topk.keys, looked.topk.weights, looked.key_sums]


def digest(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[
        :16
    ]


def bits(pool):
    """Every instruction set on the kernel's own threads; on OpenMP's, which run the same tasks, the best one."""
    best, *others = kernel().instruction_sets()
    for name in [best, *others] if pool == "own" else [best]:
        kernel().use_instruction_set(name)
        for case in CASES:
            all_dtypes = (pool, name) == ("own", best)
            for dtype in (np.float16, np.float32, np.float64) if all_dtypes else (np.float32,):
                call, found = call_of(case, dtype), []
                for count in (1, 2, 3, 7):
                    os.environ["REGARD_NUM_THREADS"] = str(count)
                    found.append(digest(everything(call)))
                print(kernel().pool(), name, np.dtype(dtype), len(set(found)), found[0], case, sep="\t")


def fork(_):
    """A child of a child, each after its parent's pool was used."""
    os.environ["REGARD_NUM_THREADS"] = "3"
    call = call_of("causal", np.float32)
    expected = digest(everything(call))
    for _ in range(2):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            again = digest(everything(call))
            os._exit(0 if status == 0 and again == expected else 1)
        if digest(everything(call)) != expected:
            os._exit(1)
    print("same", flush=True)
    os._exit(0)


def crowd(_):
    """Calls of several Python threads: some get the pool, the others work alone; two share one plan."""
    os.environ["REGARD_NUM_THREADS"] = "3"
    names = ["causal", "slopes", "bits", "shared keys", "decoding", "causal"] * 3
    calls = {name: call_of(name, np.float32) for name in set(names)}
    expected = {name: digest(everything(call)) for name, call in calls.items()}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda name: digest(everything(calls[name])), names))
    assert found == [expected[name] for name in names]
    print("same", kernel().pool())


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    if sys.argv[2] == "own":
        _lowering._share_openmp = lambda: None
    else:
        threads()
    assert kernel().pool() == ("own" if sys.argv[2] == "own" else "openmp")
    {"bits": bits, "fork": fork, "crowd": crowd}[sys.argv[1]](sys.argv[2])
