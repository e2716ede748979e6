"""JAX's own tests of `jax.nn.dot_product_attention`, with `regard.compat.jax` in the place of cuDNN.

python tests/suites/jax_suite.py --checkout PATH     PATH is a checkout of JAX at the installed version

These tests compare the implementation that they name with JAX's plain one, which they ask for as `implementation=None`. Here ours answers
every call but those. What is written for cuDNN runs too: the tests are told that a GPU of that kind is there, and not to look for cuDNN's
name in the compiled program. Nothing else of them is changed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import unittest
from collections import Counter
from pathlib import Path
from types import ModuleType

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from regard.compat.jax import dot_product_attention


def main() -> int:
    """Run the tests; 0 where all pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, required=True)
    module = loaded(parser.parse_args().checkout / "tests" / "nn_test.py")
    calls = replace()
    tests = [
        test
        for test in every(unittest.TestLoader().loadTestsFromModule(module))
        if "DotProductAttention" in test.id()
    ]
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(tests))
    print(
        f"{result.testsRun} tests, {len(result.failures) + len(result.errors)} failed, {len(result.skipped)} skipped; {calls['ours']} calls of ours"
    )
    return 0 if result.wasSuccessful() and calls["ours"] else 1


def loaded(path: Path) -> ModuleType:
    """The test module of a checkout; its folder is not imported from. Its looks at the GPU and at cuDNN are answered with yes."""
    spec = importlib.util.spec_from_file_location("jax_nn_test", path)
    module = importlib.util.module_from_spec(spec)
    sys.argv = sys.argv[:1]  # it reads flags
    spec.loader.exec_module(module)
    module.jtu.is_cuda_compute_capability_at_least = lambda _: True
    module._check_cudnn_backend = lambda *_arguments, **_options: True
    return module


def replace() -> Counter:
    """Put ours where no test asks for JAX's plain one; counts its calls."""
    plain, calls = jax.nn.dot_product_attention, Counter()

    def chosen(*arguments, implementation="ours", **options):
        if implementation is None:
            return plain(*arguments, **options)
        calls["ours"] += 1
        return dot_product_attention(*arguments, **options)

    jax.nn.dot_product_attention = chosen
    return calls


def every(suite):
    """The single tests of a suite."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from every(test)
        else:
            yield test


if __name__ == "__main__":
    raise SystemExit(main())
