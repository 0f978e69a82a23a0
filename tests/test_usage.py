from __future__ import annotations

import subprocess
import sys
import time

import pytest

from align.usage import PeakMemory


def test_peak_memory_sees_this_process_and_its_children() -> None:
    with PeakMemory() as idle:
        pass
    with PeakMemory() as own:
        block = b"x" * (200 << 20)
        del block  # freed before anyone looked
    assert own.gib - idle.gib == pytest.approx(200 / 1024, abs=0.05)
    code = "b = b'x' * (300 << 20); print('', flush=True); input()"
    with PeakMemory() as both, subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        time.sleep(1.2)
        child.stdin.close()
    assert both.gib - idle.gib == pytest.approx(300 / 1024, abs=0.1)
