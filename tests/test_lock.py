from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from align import lock
from align.errors import LaunchError


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def held_by(path: Path, **changes: Any) -> None:
    holder = {"pid": os.getpid(), "started": lock._started(os.getpid()), "host": lock.socket.gethostname()}
    path.write_text(json.dumps({**holder, **changes}))


def test_locks(tmp_path: Path, dead_pid: int) -> None:
    path = tmp_path / "a.lock"
    held_by(path)
    with pytest.raises(LaunchError, match="works in this folder"), lock.locked(path):
        pass
    held_by(path, host="elsewhere")
    with pytest.raises(LaunchError, match=r"on elsewhere .* delete .*a\.lock"), lock.locked(path):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.lock"]
    for stale in ({"pid": dead_pid}, {"started": "1"}):  # ended, or its number was given to another process
        held_by(path, **stale)
        with lock.locked(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert list(tmp_path.iterdir()) == []


def test_a_zombie_holds_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    held_by(tmp_path / "a.lock", pid=process.pid, started=lock._started(process.pid))
    for _ in range(500):
        if lock._started(process.pid) is None:
            break
        time.sleep(0.01)
    with lock.locked(tmp_path / "a.lock"):
        pass
    process.wait()


CONTEND = """
import os, sys, time
from pathlib import Path
from align.errors import LaunchError
from align.lock import locked
folder, gate = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not gate.exists():
    pass
try:
    with locked(folder / "a.lock"):
        os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
        time.sleep(0.3)
        (folder / "inside").unlink()
        print("held")
except LaunchError:
    print("refused")
"""


def test_a_stale_lock_is_taken_by_one_run_alone(tmp_path: Path, dead_pid: int) -> None:
    folder, gate = tmp_path / "run", tmp_path / "gate"
    folder.mkdir()
    held_by(folder / "a.lock", pid=dead_pid)
    run_one = [sys.executable, "-c", CONTEND, str(folder), str(gate)]
    runs = [subprocess.Popen(run_one, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    gate.touch()
    said = sorted(run.communicate(timeout=30)[0].strip() for run in runs)
    assert said == ["held", "refused", "refused", "refused"]
    assert list(folder.iterdir()) == []
