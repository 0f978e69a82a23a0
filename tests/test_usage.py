from __future__ import annotations

import subprocess
import sys

import pytest

OWN = """
from align.usage import PeakMemory
with PeakMemory() as idle:
    pass
with PeakMemory() as own:
    block = b"x" * (200 << 20)
    del block  # freed before anyone looked
print(own.gib - idle.gib)
"""


def test_peak_memory_sees_what_falls_between_two_looks() -> None:
    # In a process of its own: where the kernel's mark cannot be set back, it is that of everything before.
    done = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(200 / 1024, abs=0.05)


CHILD = """
import subprocess, sys, time
from align.usage import PeakMemory
with PeakMemory() as idle:
    pass
code = "b = b'x' * (300 << 20); print('', flush=True); input()"
with PeakMemory() as both, subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
    child.stdout.readline()
    time.sleep(1.2)
    child.stdin.close()
print(both.gib - idle.gib)
"""


def test_peak_memory_sees_children() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(300 / 1024, abs=0.1)
