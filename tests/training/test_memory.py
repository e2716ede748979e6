"""Freed memory goes back to the system when it is asked to; in a process of its own, whose settings nobody shares."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHILD = """
from regard.training.memory import keep_freed_memory, release_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

assert keep_freed_memory()
blocks = [bytearray(1 << 20) for _ in range(96)]
pins = [bytearray(100) for _ in range(9)]
full = resident()
del blocks
kept = resident()
assert release_freed_memory()
print(full, kept, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_freed_memory_is_kept_until_it_is_released():
    done = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True)
    full, kept, released = map(float, done.stdout.split())
    assert kept > full - 10
    assert released < full - 80


def test_another_c_library_is_left_alone(monkeypatch):
    from regard.training import memory

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory()
    assert not memory.release_freed_memory()
