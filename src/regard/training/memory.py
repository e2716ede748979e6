"""Keep freed memory in the process, so that a step does not ask the system for the same pages again."""

from __future__ import annotations

import ctypes
import platform

# Names and numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell glibc to hold on to freed memory; False where the C library is another.

    A training step on a CPU allocates and frees the same tensors again and again; by default the large ones come
    from the system, zeroed page by page, each time.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 28))
    return all(libc.mallopt(name, value) for name, value in settings)


def release_freed_memory() -> bool:
    """Give the pages of freed memory back to the system; False where the C library cannot.

    What is kept after `keep_freed_memory` is lost to other programs: reading the data and scoring leave more than training
    needs. The next step or two ask for their pages again.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))
