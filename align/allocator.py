"""glibc's allocator, told to keep what is freed: a step frees and allocates the same tensors over and over.

By default it hands large blocks back to the system at once and takes them anew, and every page of a new block is a
fault and is filled with zeros: about a sixth of a small model's step on a CPU.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
LARGEST = 32 << 20  # bytes that glibc lets a block have before it is mapped by itself
GIVEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """From now on, in this process, freed memory is kept for the next tensors.

    Returns:
        whether it was told so: not where the C library is no glibc, or the environment has settled it otherwise.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in GIVEN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    settings = {MMAP_THRESHOLD: LARGEST, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 256 << 20}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
