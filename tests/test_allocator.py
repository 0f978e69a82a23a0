"""glibc's allocator keeps what is freed, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource
from align.allocator import keep_freed_memory
told = keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def once():
    block = bytearray(8 << 20)
    for page in range(0, len(block), 4096):
        block[page] = 1

once()
before = faults()
for _ in range(20):
    once()
print(told, faults() - before)
"""


def run(**env: str) -> tuple[bool, int]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**given, "PYTHONPATH": str(root), **env},
        capture_output=True,
        text=True,
        check=True,
    )
    told, faults = done.stdout.split()
    return told == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system's C library is no glibc")
def test_blocks_are_used_again() -> None:
    told, faults = run()
    assert told
    assert faults < 2048, "not a fault a page each time: 20 blocks have 40960 pages"


def test_what_the_environment_says_stands() -> None:
    assert run(MALLOC_TOP_PAD_="1000000")[0] is False
