"""Which switches help where there is little data: recipes by seeds, one run each, and a table of means and spreads.

    python experiments/little_data/run.py --data DIR --out runs/little --minutes 5 --seeds 0 1 2
    python experiments/little_data/run.py --data DIR --out runs/little --table
    python experiments/little_data/run.py --task answer --train A/train.jsonl.gz B/train.jsonl.gz --dev A/dev.jsonl.gz \
        --test C/test.jsonl.gz --init FOLDER --recipes plain no_matches last_weights init --out runs/little-answers --minutes 5

DIR holds train, dev and test as `.jsonl.gz`; each can be named by itself, training data as several files. A run that stands is not made again and one that was interrupted goes on: call it
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
    "last_weights": {"average": 0},
    "no_matches": {"matches": False},  # of answers alone
    "init": {"init": None},  # the folder that --init names; of tasks that read
}
EVERYWHERE = [name for name in RECIPES if name not in ("no_matches", "init")]
RESULT, PLAN = "result.json", "plan.json"
# How many standard errors a mean of 2 to 10 values strays with 95 % confidence: Student's t with 1 to 9 degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


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
    parser.add_argument("--data", type=Path, help="folder of train, dev and test")
    parser.add_argument("--train", type=Path, nargs="+", help="training data instead of the folder's")
    parser.add_argument("--dev", type=Path, help="dev data instead of the folder's")
    parser.add_argument("--test", type=Path, help="test data instead of the folder's")
    parser.add_argument("--init", help="pretrained encoder of the recipe init")
    parser.add_argument(
        "--examples", type=int, help="train on so many of the first examples alone, of the files in turn"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="budget of every run")
    parser.add_argument("--steps", type=int, help="the same in updates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=EVERYWHERE, choices=list(RECIPES))
    parser.add_argument("--option", action="append", default=[], help="name=value, or name alone, for all")
    parser.add_argument("--table", action="store_true", help="print what there is and train nothing")
    options = parser.parse_args(arguments)
    if "init" in options.recipes and options.init is None and not options.table:
        parser.error("the recipe init needs --init FOLDER")
    names = ("train", "dev", "test")
    if options.data is None and not options.table and None in (getattr(options, name) for name in names):
        parser.error("there is no data: expected --data, or --train, --dev and --test")
    for name in names:
        if getattr(options, name) is None and options.data is not None:
            path = options.data / f"{name}.jsonl.gz"
            setattr(options, name, [path] if name == "train" else path)
    return options


def keep_plan(options: argparse.Namespace) -> None:
    """Note under which conditions the runs of a folder are made; refuse to mix others with them."""
    names = ("task", "train", "dev", "test", "init", "examples", "minutes", "steps", "option")
    plan = {name: str(getattr(options, name)) for name in names}
    if options.train is not None:
        plan["train"] = ",".join(map(str, options.train))
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
        if run.recipe == "init":
            given["init"] = options.init
        flags = {**{name: value for name, value in budget.items() if value is not None}, **given}
        regard(
            "train", options.task, "--train", training_data(options), "--dev", options.dev,
            "--out", folder, *spelled(flags),
        )  # fmt: skip
    scored = json.loads(regard("evaluate", folder, "--data", options.test, "--json"))
    result = {"recipe": run.recipe, "seed": run.seed, **facts(folder), "test": scored}
    (folder / RESULT).write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf8")


def training_data(options: argparse.Namespace) -> str:
    """The training files with commas between them, or a file of their first examples, of each in turn."""
    if options.examples is None:
        return ",".join(map(str, options.train))
    part: Path = options.out / f"train-{options.examples}.jsonl"
    if not part.exists():
        from regard.data.lines import read_lines

        rounds = itertools.zip_longest(*map(read_lines, options.train))
        several = (line for one in rounds for _, line in filter(None, one))
        lines = list(itertools.islice(several, options.examples))
        part.write_text("\n".join(lines) + "\n", encoding="utf8")
    return str(part)


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
        yield f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        if not isinstance(value, bool):
            yield str(value)


def results(folder: Path) -> list[dict]:
    """All finished runs."""
    return [json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob(f"*/{RESULT}"))]


def table(found: Sequence[dict], recipes: Sequence[str]) -> str:
    """Mean and standard deviation over the seeds, and of the difference to `plain` with the same seed, whose mean has a 95 % interval."""
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
            "" if recipe == "plain" or not beside else spread(beside, "+.2f") + interval(beside),
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


def interval(values: Sequence[float]) -> str:
    """The 95 % interval of a mean by Student's t; nothing of one value."""
    if len(values) < 2:
        return ""
    times = STUDENT[min(len(values) - 2, len(STUDENT) - 1)]
    half = times * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return f" [{mean - half:+.2f}, {mean + half:+.2f}]"


if __name__ == "__main__":
    main()
