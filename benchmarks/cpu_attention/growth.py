"""How time and memory grow with the length, forward and backward, one fresh process a point."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MASKS = ("full", "causal", "window")
LENGTHS = tuple(1024 * 2**power for power in range(7))
SCRIPT = Path(__file__).parent.with_suffix(".py")


def growth(
    contender: str, backend: str | None, patience: float, lengths: Sequence[int], dtype: str = "float32"
) -> list[dict[str, Any]]:
    """Measure each mask at rising lengths until the next point would take longer than `patience` seconds."""
    points = []
    for mask in MASKS:
        line: list[dict[str, Any]] = []
        for length in lengths:
            if line and _next(line) > patience:
                break
            try:
                line.append(_in_fresh_process(contender, mask, length, backend, dtype))
            except subprocess.CalledProcessError as error:  # out of memory, as a rule
                print(f"{contender:8} {mask:8} {length:>7,} ended with status {error.returncode}", flush=True)
                break
            print(_show(line), flush=True)
        for name in ("seconds", "bytes"):
            print(f"  {mask}: {name} grow as N ** {exponent(line, name):.2f}")
        points += line
    return points


def exponent(line: Sequence[dict[str, Any]], name: str) -> float:
    """The slope of a straight line through the upper half of the points, both axes logarithmic."""
    upper = line[len(line) // 2 :] if len(line) > 3 else line
    xs, ys = ([math.log(max(point[axis], 1e-9)) for point in upper] for axis in ("length", name))
    if len(xs) < 2:
        return math.nan
    middle = sum(xs) / len(xs)
    return sum((x - middle) * y for x, y in zip(xs, ys, strict=True)) / sum((x - middle) ** 2 for x in xs)


def measure_point(
    contender: str, mask: str, length: int, backend: str | None, dtype: str = "float32"
) -> dict[str, Any]:
    """Seconds of forward and backward, and by how much they raise the peak memory above the inputs'."""
    _warm_up(contender, mask, backend, dtype)
    prepared = _prepare(contender, mask, length, backend, dtype)
    before = _reset_peak()
    seconds = [_seconds(prepared)]
    growth = _peak() - before
    while sum(seconds) < 0.5 and len(seconds) < 20:
        seconds.append(_seconds(prepared))
    return {
        "contender": contender, "mask": mask, "length": length, "seconds": min(seconds), "bytes": growth,
        "arrays": sum(array.nbytes for array in prepared.inputs),
    }  # fmt: skip


def _prepare(contender: str, mask: str, length: int, backend: str | None, dtype: str) -> Any:
    from cpu_attention.contenders import CONTENDERS
    from cpu_attention.items import Item
    from cpu_attention.problem import make_problem

    window = 256 if mask == "window" else 0
    item = Item(mask, "dense", (length,), causal=mask != "full", window=window)
    name = "masked" if contender == "sdpa" and window else contender
    return CONTENDERS[name](make_problem(item, backend, dtype))


def _warm_up(contender: str, mask: str, backend: str | None, dtype: str) -> None:
    _prepare(contender, mask, 64, backend, dtype).call("f+b")()


def _seconds(prepared: Any) -> float:
    begin = time.perf_counter()
    prepared.call("f+b")()
    return time.perf_counter() - begin


def _reset_peak() -> int:
    """Forget the peak so far where the system allows it, and say what the peak is now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    """The most memory this process has held, in bytes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def _in_fresh_process(
    contender: str, mask: str, length: int, backend: str | None, dtype: str
) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "point", "--contender", contender, "--point", mask, str(length)]
    command += ["--dtype", dtype]
    command += [] if backend is None else ["--backend", backend]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _next(line: Sequence[dict[str, Any]]) -> float:
    factor = line[-1]["seconds"] / line[-2]["seconds"] if len(line) > 1 else 4.0
    return line[-1]["seconds"] * max(factor, 2.0)


def _show(line: Sequence[dict[str, Any]]) -> str:
    point = line[-1]
    return (
        f"{point['contender']:8} {point['mask']:8} {point['length']:>7,} {point['seconds']:>10.4f} s "
        f"{point['bytes'] / 2**20:>10.1f} MiB above {point['arrays'] / 2**20:.0f} MiB of inputs"
    )
