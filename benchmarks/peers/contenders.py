"""Who takes part: a name says the peer and its variant, this file says how it is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.protocol import Contender

BENCHMARKS = Path(__file__).resolve().parents[1]
ENVIRONMENTS = BENCHMARKS.parent / "build" / "peers"
# For everybody, ours included: otherwise page faults on freed memory cost up to a third of the time.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


@dataclass(frozen=True)
class Entry:
    """A contender: the module that is run, whose interpreter runs it, and what it is told."""

    module: str
    interpreter: str | None  # a folder of `build/peers`; None: ours
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None  # whose, for who only decodes

    @property
    def python(self) -> Path:
        """The interpreter."""
        if self.interpreter is None:
            return Path(sys.executable)
        return ENVIRONMENTS / self.interpreter / "bin" / "python"


# Peak learning rates for a cosine with 10 % of warm-up; `tune` looks at multiples of them.
BASES = {
    "ours": Entry("ours", None),
    "mbart": Entry("transformers", "transformers", {"architecture": "mbart", "learning_rate": 3e-3}),
    "marian": Entry("transformers", "transformers", {"architecture": "marian", "learning_rate": 2e-3}),
    "joeynmt": Entry("joeynmt", "joeynmt", {"learning_rate": 2e-3}),
    "eole": Entry("eole", "eole", {"learning_rate": 2e-3}),
    "ctranslate2": Entry("ctranslate2", "transformers", weights="mbart"),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "fp32": {"precision": "fp32"},
    "grouped": {"order": "grouped"},
    "compiled": {"compiled": True},
    "int8": {"compute": "int8"},
    # SwiGLU has a third matrix: with this width ours has the parameters of the peers' feed-forwards of 256.
    "168": {"hidden": 168},
}

TRAINING = (
    "ours",
    "ours-168",
    "mbart",
    "mbart-bf16",
    "mbart-grouped",
    "marian",
    "marian-bf16",
    "joeynmt",
    "eole",
)
QUALITY = ("ours", "ours-168", "mbart", "marian", "joeynmt", "eole")
DECODING = (
    *QUALITY,
    "ours-int8",
    "ctranslate2",
    "ctranslate2-int8",
    "ctranslate2-ours",
    "ctranslate2-ours-int8",
)


def entry(name: str) -> Entry:
    """The entry of "mbart", "mbart-bf16-grouped", "ctranslate2-ours-int8"; ValueError for another name."""
    base, *variants = name.split("-")
    if base not in BASES:
        raise ValueError(
            f"no contender is called {name!r}; there are {', '.join(BASES)}, with {', '.join(VARIANTS)}"
        )
    found = BASES[base]
    options, weights = dict(found.options), found.weights
    for variant in variants:
        if variant in BASES and weights is not None:
            weights = variant
        elif variant in VARIANTS:
            options |= VARIANTS[variant]
        else:
            raise ValueError(f"{name!r}: there is no variant {variant!r}; there are {', '.join(VARIANTS)}")
    if base == "ours" and "compute" in options:
        weights = "ours"  # fewer bits are for decoding alone
    return Entry(found.module, found.interpreter, options, weights)


def chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """The names that are wanted: those given by `only`, else all of them whose environment stands."""
    if only:
        for name in only:
            entry(name)
        return list(only)
    return [name for name in names if entry(name).python.exists()]


def start(name: str, folder: Path, threads: int, **options: Any) -> tuple[Contender, dict[str, Any]]:
    """A contender's process, and the facts it told when it was ready."""
    who = entry(name)
    if not who.python.exists():
        raise FileNotFoundError(f"{name}: {who.python} does not exist; `make peers` builds it")
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    contender = Contender([str(who.python), "-m", f"peers.{who.module}"], environment(threads), log)
    told = {**who.options, **options}
    if who.module == "ctranslate2":
        told["threads"] = threads
    try:
        return contender, contender.ask("start", corpus_folder=str(folder), **told)
    except Exception:
        contender.close()
        raise


def environment(threads: int) -> dict[str, str]:
    """What every contender gets: the same threads, the same malloc, no network."""
    count = str(threads)
    settings = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "PYTHONPATH": str(BENCHMARKS)}
    settings |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **MALLOC, **settings}
