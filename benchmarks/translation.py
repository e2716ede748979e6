"""Train a translator for some minutes, score it on held-out sentences, and tell the score by the minute.

    python benchmarks/translation.py --data DIR --out runs/multi30k --minutes 20 --lowercase

DIR holds train, dev and test as `.jsonl.gz`. The score is sacrebleu's BLEU with its 13a tokenizer, beam 5; the hypotheses
and references are written beside the run, so that the same figure comes from sacrebleu itself. Run it while nothing
else runs: the machine's own speed is measured before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch


def main() -> None:
    """Train, evaluate, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--lowercase", action="store_true")
    parser.add_argument("--processes", type=int, default=1, help="train by torchrun, the cores shared out")
    arguments, options = parser.parse_known_args()

    print(f"machine: {torch.get_num_threads()} threads, torch {torch.__version__}, {ceiling()}")
    case = ["--lowercase"] if arguments.lowercase else []
    train(arguments.processes, "train", "translate", "--train", arguments.data / "train.jsonl.gz", "--dev", arguments.data / "dev.jsonl.gz",
        "--out", arguments.out, "--minutes", arguments.minutes, *case, *options)  # fmt: skip
    # Children's peak: training has been the only child so far.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"machine afterwards: {ceiling()}\n")
    print(curve(arguments.out / "metrics.jsonl"))
    print(f"\npeak memory of training: {peak:.0f} MiB in the largest process\n")
    test = arguments.data / "test.jsonl.gz"
    for beam in (1, 5):
        scores = json.loads(run("evaluate", arguments.out, "--data", test, "--beam", beam, "--json", *case))
        speed = scores["count"] / scores["seconds"]
        print(
            f"test, beam {beam}: BLEU {scores['bleu']:.2f}, chrF {scores['chrf']:.2f}, {speed:.0f} sentences/s"
        )
    print_check(arguments.out, test, arguments.lowercase)


def train(processes: int, *command: object) -> None:
    """Run a training command, in one process or in several."""
    if processes == 1:
        run(*command)
        return
    threads = max(1, torch.get_num_threads() // processes)
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        "-m",
        "regard.cli",
    ]
    words = [sys.executable, *launcher, *map(str, command)]
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})


def run(*command: object) -> str:
    """Run `regard` with these words; messages go to the screen, the output is returned."""
    words = [sys.executable, "-m", "regard.cli", *map(str, command)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def curve(metrics: Path) -> str:
    """The dev score and the speed at every evaluation, as a table."""
    rows = [
        "| minute | updates | tokens/s | dev loss | dev BLEU (greedy) |",
        "| --- | --- | --- | --- | --- |",
    ]
    speeds: list[float] = []
    for event in map(json.loads, metrics.read_text(encoding="utf8").splitlines()):
        if event["event"] == "step":
            speeds.append(event["tokens_per_second"])
        elif event["event"] == "dev":
            speed = f"{sum(speeds) / len(speeds):,.0f}" if speeds else "-"
            minute = f"{event['seconds'] / 60:.1f}"
            rows.append(
                f"| {minute} | {event['step']:,} | {speed} | {event['dev_loss']:.3f} | {event['bleu']:.2f} |"
            )
            speeds = []
    return "\n".join(rows)


def ceiling() -> str:
    """The machine's own speed: a large matrix product in both precisions, and a large copy."""
    a = torch.randn(1024, 1024)
    products = " / ".join(f"{2 * 1024**3 / timed(lambda x=x: x @ x) / 1e9:.0f}" for x in (a, a.bfloat16()))
    big, target = torch.randn(1 << 25), torch.empty(1 << 25)
    bandwidth = 2 * big.nbytes / timed(lambda: target.copy_(big)) / 1e9
    return f"matrix product fp32 / bf16 {products} GFLOP/s, copy {bandwidth:.0f} GB/s"


def timed(function: object, repeats: int = 10) -> float:
    """The best of some repeats, in seconds."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        function()  # type: ignore[operator]
        best = min(best, time.perf_counter() - begin)
    return best


def print_check(out: Path, test: Path, lowercase: bool) -> None:
    """Write hypotheses and references, and print what sacrebleu itself says of them."""
    import gzip

    with gzip.open(test, "rt", encoding="utf8") as file:
        records = [json.loads(line) for line in file]
    (out / "source.txt").write_text("".join(record["source"] + "\n" for record in records), encoding="utf8")
    (out / "reference.txt").write_text(
        "".join(record["target"] + "\n" for record in records), encoding="utf8"
    )
    (out / "hypotheses.txt").write_text(run("predict", out, "--input", out / "source.txt"), encoding="utf8")
    command = [
        "-m",
        "sacrebleu",
        str(out / "reference.txt"),
        "-i",
        str(out / "hypotheses.txt"),
        "-tok",
        "13a",
        "-b",
    ]
    command += ["-lc"] if lowercase else []
    score = subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True
    ).stdout.strip()
    print(f"\nsacrebleu {' '.join(command[2:])}\n{score}")


if __name__ == "__main__":
    main()
