"""Which switches help where there is little data: recipes by seeds, one run each, and a table of means and spreads.

    python experiments/little_data/run.py --data DIR --out runs/little --minutes 5 --seeds 0 1 2
    python experiments/little_data/run.py --data DIR --out runs/little --table

DIR holds train, dev and test as `.jsonl.gz`. A run that stands is not made again and one that was interrupted goes on: call it
with the same arguments until all are done, or with more seeds or recipes to add to them. Runs of one seed stand side by side
in time, so that a machine whose speed varies is fair to all recipes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RECIPES: dict[str, dict[str, object]] = {
    "plain": {},
    "bpe_dropout": {"bpe_dropout": 0.1},
    "r_drop": {"r_drop": 5.0},
    "pretrain": {"pretrain": 0.2},
    "bpe_dropout+pretrain": {"bpe_dropout": 0.1, "pretrain": 0.2},
    "bpe_dropout+r_drop": {"bpe_dropout": 0.1, "r_drop": 5.0},
    "all": {"bpe_dropout": 0.1, "r_drop": 5.0, "pretrain": 0.2},
}
RESULT, PLAN = "result.json", "plan.json"


@dataclass(frozen=True)
class Run:
    """One recipe with one seed."""

    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.recipe}-{self.seed}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, and print the table."""
    options = parsed(arguments)
    keep_plan(options)
    if not options.table:
        for seed, recipe in itertools.product(options.seeds, options.recipes):
            make(Run(recipe, seed), options)
    print(table(results(options.out), options.recipes))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="translate")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=int, help="train on so many of the first examples alone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="budget of every run")
    parser.add_argument("--steps", type=int, help="the same in updates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--option", action="append", default=[], help="name=value, or name alone, for all")
    parser.add_argument("--table", action="store_true", help="print what there is and train nothing")
    return parser.parse_args(arguments)


def keep_plan(options: argparse.Namespace) -> None:
    """Note under which conditions the runs of a folder are made; refuse to mix others with them."""
    names = ("task", "data", "examples", "minutes", "steps", "option")
    plan = {name: str(getattr(options, name)) for name in names}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / PLAN
    if not path.exists():
        path.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf8")
    elif not options.table and json.loads(path.read_text(encoding="utf8")) != plan:
        raise SystemExit(
            f"{path} says other conditions: {path.read_text(encoding='utf8')}. Name another --out."
        )


def make(run: Run, options: argparse.Namespace) -> None:
    """Train and score, or go on where that was interrupted."""
    folder = options.out / run.name
    if (folder / RESULT).exists():
        return
    print(f"{run.name}", file=sys.stderr, flush=True)
    if (folder / "config.toml").exists():
        regard("train", "--resume", "--out", folder)
    else:
        budget = {"minutes": options.minutes, "steps": options.steps}
        common = {name: value or True for name, _, value in (one.partition("=") for one in options.option)}
        given = {**common, **RECIPES[run.recipe], "seed": run.seed}
        flags = {**{name: value for name, value in budget.items() if value is not None}, **given}
        regard(
            "train", options.task, "--train", training_data(options), "--dev", options.data / "dev.jsonl.gz",
            "--out", folder, *spelled(flags),
        )  # fmt: skip
    scored = json.loads(regard("evaluate", folder, "--data", options.data / "test.jsonl.gz", "--json"))
    result = {"recipe": run.recipe, "seed": run.seed, **facts(folder), "test": scored}
    (folder / RESULT).write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf8")


def training_data(options: argparse.Namespace) -> Path:
    """The training file, or a file of its first examples."""
    whole: Path = options.data / "train.jsonl.gz"
    if options.examples is None:
        return whole
    part: Path = options.out / f"train-{options.examples}.jsonl"
    if not part.exists():
        from regard.data.lines import read_lines

        lines = [line for _, line in itertools.islice(read_lines(whole), options.examples)]
        part.write_text("\n".join(lines) + "\n", encoding="utf8")
    return part


def facts(folder: Path) -> dict[str, float]:
    """What the log of a run says of it: the steps, the best dev score, and the minutes from begin to end."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    end = [json.loads(line) for line in lines if '"end"' in line][-1]
    return {"steps": end["step"], "dev": end["best"], "minutes": round(end["seconds"] / 60, 2)}


def regard(*arguments: object) -> str:
    """What a command of regard writes, in a process of its own."""
    command = [sys.executable, "-m", "regard.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def spelled(flags: dict[str, object]) -> Iterable[str]:
    """Options of a recipe as flags."""
    for name, value in flags.items():
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield str(value)


def results(folder: Path) -> list[dict]:
    """All finished runs."""
    return [json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob(f"*/{RESULT}"))]


def table(found: Sequence[dict], recipes: Sequence[str]) -> str:
    """Mean and standard deviation over the seeds, and of the difference to `plain` with the same seed."""
    plain = {one["seed"]: score(one) for one in found if one["recipe"] == "plain"}
    lines = [
        "| recipe | runs | test | against plain, same seed | dev | updates |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for recipe in recipes:
        runs = [one for one in found if one["recipe"] == recipe]
        if not runs:
            continue
        beside = [score(one) - plain[one["seed"]] for one in runs if one["seed"] in plain]
        cells = [
            recipe,
            str(len(runs)),
            spread([score(one) for one in runs]),
            "" if recipe == "plain" or not beside else spread(beside, "+.2f"),
            spread([one["dev"] for one in runs]),
            f"{statistics.mean(one['steps'] for one in runs):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def score(result: dict) -> float:
    """The score that decides: the first that `regard evaluate` gives."""
    return float(next(iter(result["test"].values())))


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean and standard deviation; the mean alone of one value."""
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
