"""Checks of the C++ kernel that take minutes: sanitizers, random calls, and counts of instructions.

python tools/check_kernel.py                    every sanitizer
python tools/check_kernel.py --tasks 5000       with more random calls
python tools/check_kernel.py --instructions     against the counts in csrc/tests/instructions.txt
python tools/check_kernel.py --instructions --record
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "csrc" / "tests"
COUNTS = TESTS / "instructions.txt"
# Counts differ a little with the compiler's version; a real loss is larger.
TOLERANCE = 0.03
# Valgrind knows AVX2 and no wider registers.
COUNTED = "avx2"


def build(sanitizers: str) -> Path:
    """The folder of the test programs, compiled with the sanitizers or, for "", as the kernel ships."""
    folder = ROOT / "build" / f"kernel-tests-{sanitizers.split(',', maxsplit=1)[0] or 'plain'}"
    configure = ["cmake", "-S", str(TESTS), "-B", str(folder), f"-DREGARD_SANITIZE={sanitizers}"]
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", "2"]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return folder


def run(program: Path, *words: str) -> bool:
    """Whether a test program ends well; its output is shown."""
    print(f"{program.parent.name}/{program.name} {' '.join(words)}", flush=True)
    return subprocess.run([str(program), *words], check=False).returncode == 0


def check_with_sanitizers(seed: int, tasks: int) -> bool:
    """Random calls under AddressSanitizer and UndefinedBehaviorSanitizer, several threads under ThreadSanitizer."""
    address = build("address,undefined")
    fine = run(address / "fuzz", str(seed), str(tasks))
    fine &= run(address / "threads", "2")
    fine &= run(address / "decoding", str(seed), str(1 + tasks // 10))
    thread = build("thread")
    fine &= run(thread / "decoding", str(seed), str(1 + tasks // 50))
    fine &= run(thread / "threads", "2")
    return fine & run(thread / "fuzz", str(seed), str(tasks // 10))


def instructions_of(folder: Path, case: str) -> int:
    """Instructions of one call: what three calls take beyond one, halved, so that the start is left out."""
    found = [_instructions(folder / "instructions", case, rounds) for rounds in (1, 3)]
    return (found[1] - found[0]) // 2


def _instructions(program: Path, case: str, rounds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        profile = f"--callgrind-out-file={folder}/profile"
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", profile, str(program), case, str(rounds)],
            check=False, capture_output=True, text=True, env=os.environ | {"REGARD_ISA": COUNTED},
        )  # fmt: skip
    count = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or count is None:
        raise SystemExit(f"valgrind could not count {case}:\n{done.stderr}")
    return int(count[1])


def recorded() -> dict[str, int]:
    """The counts on record, by case."""
    lines = COUNTS.read_text(encoding="utf8").splitlines() if COUNTS.exists() else []
    return {line.split()[0]: int(line.split()[1]) for line in lines if line and not line.startswith("#")}


def check_instructions(*, record: bool) -> bool:
    """Count the instructions of the fixed calls and compare them with those on record, or write them there."""
    folder = build("")
    program = str(folder / "instructions")
    cases = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    found = {case: instructions_of(folder, case) for case in cases}
    before, fine = recorded(), True
    for case, count in found.items():
        change = count / before[case] - 1 if case in before else 0.0
        fine &= record or (case in before and abs(change) <= TOLERANCE)
        print(f"{case:28} {count:>12,} {change:+.1%}{'' if case in before else ' (not on record)'}")
    if record:
        head = f"# Instructions of one call on one thread, {COUNTED}: tools/check_kernel.py --instructions --record\n"
        lines = "".join(f"{case} {count}\n" for case, count in found.items())
        COUNTS.write_text(head + lines, encoding="utf8")
    elif not fine:
        print(f"A count moved by more than {TOLERANCE:.0%}, either way; if that is meant, add --record.")
    return fine


def main() -> int:
    """Run what the command line asks for; 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instructions", action="store_true", help="count instructions instead")
    parser.add_argument("--record", action="store_true", help="write the counts down")
    parser.add_argument("--seed", type=int, default=0, help="of the random calls")
    parser.add_argument("--tasks", type=int, default=500, help="how many random calls")
    asked = parser.parse_args()
    if asked.instructions or asked.record:
        return 0 if check_instructions(record=asked.record) else 1
    return 0 if check_with_sanitizers(asked.seed, asked.tasks) else 1


if __name__ == "__main__":
    sys.exit(main())
