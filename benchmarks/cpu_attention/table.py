"""Compact, aligned text for a terminal."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

import regard
from cpu_attention import ceilings
from cpu_attention.compare import Row
from cpu_attention.items import EXPLANATIONS, LIMITED_BY_READING, PEERS


def machine(backend: str | None) -> dict[str, Any]:
    """Where the figures come from: processor, versions, threads, ceilings."""
    probe = torch.zeros(1, 1, 1, 1)
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "regard": regard.__version__,
        "backend": regard.explain(probe, probe, probe, backend=backend).backend,
        "instruction_set": ceilings.instruction_set(),
        "ceilings": ceilings.all_ceilings(),
    }


def headline(facts: dict[str, Any]) -> str:
    """The facts of `machine` in three lines."""
    best = facts["ceilings"]
    return (
        f"{facts['processor']}, threads: {facts['threads']}; torch {facts['torch']}; "
        f"regard {facts['regard']}, backend {facts['backend']}; {facts['dtype']}\n"
        f"ceilings: multiply-add {best['fma']:.0f} GFLOP/s ({ceilings.fma_source()}), mm 1024 {best['mm']:.0f} GFLOP/s, "
        f"read {best['read']:.0f} GB/s, copy {best['copy']:.0f} GB/s"
    )


def group_header(group: str, width: int) -> str:
    """A group's title and column names."""
    limit = "of read" if group in LIMITED_BY_READING else "of peak"
    columns = "".join(f"{name:>{_peer_width(group)}}" for name in PEERS[group])
    return f"\n{group}: {EXPLANATIONS[group]}\n{'':{width}} {'pass':8}{'ours':>10}{limit:>9}{columns}"


def line(row: Row, width: int) -> str:
    """A row: our time, our share of the ceiling, then each peer's time by ours; a lone peer's time stands beside."""
    peers = PEERS[row.item.group]
    cells = "".join(f"{_cell(row, name, len(peers) == 1):>{_peer_width(row.item.group)}}" for name in peers)
    return f"{row.item.name:{width}} {row.what:8}{duration(row.seconds['ours']):>10}{row.share:>9.0%}{cells}{_shape(row)}"


def notes(rows: list[Row]) -> list[str]:
    """Why some cells are empty, each reason once."""
    found = dict.fromkeys(f"{name}: {reason}" for row in rows for name, reason in row.refusals.items())
    return [f"  - {note}" for note in found]


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        number = seconds * factor
        if number >= 1 or unit == "µs":
            break
    return f"{number:.{max(0, 2 - len(str(int(number))) + 1)}f} {unit}"


def _cell(row: Row, name: str, with_time: bool) -> str:
    if name not in row.seconds:
        return "-"
    ratio = f"{row.ratios[name]:.2f}"
    return f"{ratio} ({duration(row.seconds[name])})" if with_time else ratio


def _shape(row: Row) -> str:
    lengths = row.item.lengths
    return f"  mean {sum(lengths) / len(lengths):.1f}, longest {max(lengths)}" if row.item.is_packed else ""


def _peer_width(group: str) -> int:
    return 19 if len(PEERS[group]) == 1 else 10


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
