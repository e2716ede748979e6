"""Keras' own attention tests, which ship in its wheel, with regard behind `keras.ops.dot_product_attention` and without.

    python tests/suites/keras_suite.py --backend torch|numpy|jax|tensorflow [--only dot_product_attention]

Prints what fails with which operator, and ends with 1 where a test fails with ours that passes with Keras' own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import unittest
import warnings
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
BACKENDS = "torch", "numpy", "jax", "tensorflow"
LAYERS = (
    "keras.src.layers.attention.multi_head_attention_test",
    "keras.src.layers.attention.grouped_query_attention_test",
)
OPERATIONS = "keras.src.ops.nn_test"
OPERATION = "dot_product_attention"


def compare(backend: str, only: str = "") -> tuple[dict, dict]:
    """The outcome with Keras' operator and with ours, each from a process of its own: Keras' backend is chosen once a process."""
    return outcome(backend, "keras", only), outcome(backend, "regard", only)


def outcome(backend: str, operator: str, only: str = "") -> dict:
    """How many tests ran, which failed and why, and how often the operator was called."""
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }  # fmt: skip
    command = [sys.executable, __file__, "--backend", backend, "--operator", operator, "--only", only]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{operator} on {backend}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def run(operator: str, only: str) -> dict:
    """Run the tests in this process."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        importlib.import_module("torch")  # the other order has crashed
    warnings.simplefilter("ignore")
    calls = count_calls(operator)
    suite = unittest.TestSuite(test for test in tests() if only in test.id())
    with Path(os.devnull).open("w") as nowhere:
        result = unittest.TextTestRunner(stream=nowhere, verbosity=0).run(suite)
    bad = {test.id(): text.strip().splitlines()[-1] for test, text in [*result.failures, *result.errors]}
    return {"tests": result.testsRun, "skipped": len(result.skipped), "calls": calls[0], "failed": bad}


def count_calls(operator: str) -> list[int]:
    """Puts the operator to its place, and counts how often it is called from now on."""
    from keras.src import backend

    if operator == "regard":
        importlib.import_module("regard.compat.keras").install()
    calls, inner = [0], backend.nn.dot_product_attention

    def counted(*arguments: object, **options: object) -> object:
        calls[0] += 1
        return inner(*arguments, **options)

    backend.nn.dot_product_attention = counted
    return calls


def tests() -> Iterator[unittest.TestCase]:
    """All of the layers, and those of the operation."""
    loader = unittest.TestLoader()
    for name in (*LAYERS, OPERATIONS):
        for test in flat(loader.loadTestsFromModule(importlib.import_module(name))):
            if name != OPERATIONS or OPERATION in test.id():
                yield test


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS, default="torch")
    parser.add_argument("--only", default="", help="part of the names of the tests to run")
    parser.add_argument("--operator", choices=["keras", "regard"], help="run one in this process, print JSON")
    options = parser.parse_args()
    if options.operator:
        print(json.dumps(run(options.operator, options.only)))
        return 0
    theirs, ours = compare(options.backend, options.only)
    for name, found in (("keras", theirs), ("regard", ours)):
        print(
            f"{name:6} on {options.backend}: {found['tests']} tests, {len(found['failed'])} failed, {found['skipped']} skipped, "
            f"{found['calls']} calls of the operator"
        )
        for test, why in found["failed"].items():
            print(f"    {test}\n        {why[:160]}")
    worse = sorted(set(ours["failed"]) - set(theirs["failed"]))
    print(f"failed with regard alone: {len(worse)}", *worse, sep="\n    ")
    return bool(worse)


if __name__ == "__main__":
    sys.exit(main())
