"""What the driver knows of trainings: their budgets, their folders, their scores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from peers import contenders, corpus
from peers.protocol import Contender

CONVERTED = "ctranslate2"  # beside the weights


def title(budget: dict[str, float]) -> str:
    """A budget's name, such as "20 min" or "1000 updates"."""
    ((unit, number),) = budget.items()
    return f"{number:g} min" if unit == "minutes" else f"{number:g} updates"


def place(folder: Path, budget: str, name: str) -> Path:
    """Where the weights of a training are kept."""
    return folder / "runs" / budget.replace(" ", "-") / name


def emptied(trained: Path) -> Path:
    """The folder of a training that is about to begin: what an earlier one left there, or made of it, goes."""
    for path in (trained, _converted(trained)):
        shutil.rmtree(path, ignore_errors=True)
    trained.parent.mkdir(parents=True, exist_ok=True)
    return trained


def longest(folder: Path) -> str:
    """The budget whose weights are decoded: the most minutes, or the most updates where nothing was trained by the minute."""
    found = [path.name.split("-") for path in (folder / "runs").glob("*-*")]
    if not found:
        raise SystemExit("there are no weights to decode with; run `quality` first")
    number, unit = max(found, key=lambda words: (words[1] == "min", float(words[0])))
    return f"{number} {unit}"


def options(arguments: Namespace) -> dict[str, Any]:
    """What every training is told."""
    return {"tokens": arguments.tokens, "seed": arguments.seed}


def scaled(name: str, scale: float) -> dict[str, float]:
    """The option by which a contender multiplies its learning rates."""
    rate = contenders.entry(name).options.get("learning_rate")
    return {"scale": scale} if rate is None else {"learning_rate": scale * rate}


def speed(rounds: list[dict[str, Any]], rates: list[float], ours: list[float] | None) -> dict[str, float]:
    """The figures of a contender's rounds."""
    useful, padded = (sum(one[kind] for one in rounds) for kind in ("useful", "padded"))
    found = {
        "rate": median(rates),
        "rounds": len(rounds),
        "padding": 1 - useful / padded,
        "tokens": useful / sum(one["updates"] for one in rounds),
        "peak_mib": rounds[-1]["peak_mib"],
    }
    if ours is not None:
        from peers.results import ratio

        found["ratio"] = ratio(rates, ours)
    return found


def scores(
    contender: Contender, folder: Path, part: str, count: int, beams: Sequence[int] = (5, 1)
) -> dict[str, float]:
    """BLEU by sacrebleu, without case, with 13a or what the target's script asks for, and chrF; by everybody's own search."""
    from regard.data.tokenizer import Tokenizer
    from regard.metrics.translation import bleu, chrf

    tokenizer = Tokenizer.load(folder / corpus.TOKENIZER)
    references = corpus.read(folder).parts[part].target_texts
    found = {}
    for beam in beams:
        written = contender.ask("translate", beam=beam, batch=64, count=count, part=part)["ids"]
        texts = [tokenizer.decode(ids) for ids in written]
        right = [[text] for text in references[: len(texts)]]
        for name, metric in (("bleu", bleu), ("chrf", chrf)):
            found["greedy_" * (beam == 1) + name] = metric(texts, right, lowercase=True).value
    return found


def weights(names: Sequence[str], folder: Path, budget: str) -> tuple[dict[str, dict[str, Any]], int]:
    """For each contender that has weights of this budget the option that names them, and how many have none."""
    found: dict[str, dict[str, Any]] = {}
    missing = 0
    for name in names:
        owner = contenders.entry(name).weights
        path = place(folder, budget, owner or name)
        if contenders.entry(name).module == "ctranslate2":
            path = converted(path, owner)
        if path.exists():
            found[name] = {"load": str(path)}
        else:
            print(f"{name} does not take part: there is no {path}", file=sys.stderr)
            missing += 1
    return found, missing


def converted(trained: Path, owner: str) -> Path:
    """Weights as CTranslate2 reads them, made once; a path that does not exist where they cannot be made."""
    out = _converted(trained)
    if not trained.exists() or (out / "model.bin").exists():
        return out
    python = contenders.entry(owner).python
    command = {
        "ours": [
            str(python),
            "-m",
            "regard.cli",
            "export",
            str(trained),
            "--to",
            "ctranslate2",
            "--out",
            str(out),
        ],
        "theirs": [
            str(python.parent / "ct2-transformers-converter"),
            "--model",
            str(trained),
            "--output_dir",
            str(out),
        ],
    }["ours" if contenders.entry(owner).interpreter is None else "theirs"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(command)}\n{done.stderr.strip()[-500:]}", file=sys.stderr)
    return out


def _converted(trained: Path) -> Path:
    return trained.parent / f"{CONVERTED}-{trained.name}"
