"""Runs PyTorch's own tests of `varlen_attn` on a CPU, with regard's kernel below.

python tests/suites/torch_varlen.py --checkout DIR [unittest's options]

DIR is a checkout of PyTorch, at the version that is installed; its `test/test_varlen_attention.py` is read there. The tests are written for
CUDA: here they are made for CPU tensors and told that there is a kernel, and nothing else of them is changed.
"""

from __future__ import annotations

import argparse
import functools
import runpy
import sys
from pathlib import Path

from torch.testing._internal import common_cuda, common_device_type

from regard.compat.torch import install_varlen_cpu


def main() -> None:
    """Run the file's tests; the exit status is 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkout", required=True, type=Path)
    options, rest = parser.parse_known_args()
    path = options.checkout / "test" / "test_varlen_attention.py"
    install_varlen_cpu()
    common_cuda.PLATFORM_SUPPORTS_FLASH_ATTENTION = True
    common_device_type.instantiate_device_type_tests = functools.partial(
        for_cpu, common_device_type.instantiate_device_type_tests
    )
    sys.argv = [str(path), *rest]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def for_cpu(instantiate, tests, scope, **_options):
    """Make the tests of a class for CPU tensors, whatever device they name."""
    instantiate(tests, scope, only_for=("cpu",))


if __name__ == "__main__":
    main()
