"""Stages in several processes: they end well together, or the first failure is told and the others end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.config import parse
from align.engine.launch import LaunchConfig, launch
from align.errors import DataError, LaunchError, RecipeError
from tests.conftest import REPO

STAGE = "tests.engine.launched"
TWO = LaunchConfig(processes=2)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_one_process_is_this_one(tmp_path: Path) -> None:
    launch(STAGE, {"stage": "launched"}, tmp_path, LaunchConfig())
    assert (tmp_path / "0.txt").read_text() == f"1 of 1 {os.getpid()}"


def test_two_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launch(STAGE, {"stage": "launched"}, tmp_path, TWO)
    assert [(tmp_path / f"{rank}.txt").read_text().split()[:3] for rank in (0, 1)] == [["3.0", "of", "2"]] * 2
    assert capfd.readouterr().err.count("said on stderr") == 2


@pytest.mark.parametrize(
    ("fail", "kind", "told"),
    [
        ("data", DataError, r"rank 1 of 2: rows\.jsonl:3: found nothing"),
        pytest.param("bug", LaunchError, r"rank 1 of 2: ZeroDivisionError: by zero", marks=pytest.mark.slow),
        ("killed", LaunchError, r"rank 1 of 2 was killed"),
    ],
)
def test_the_failing_rank_is_told_within_a_minute(tmp_path: Path, fail: str, kind: type[Exception], told: str) -> None:
    began = time.monotonic()
    with pytest.raises(kind, match=told):
        launch(STAGE, {"stage": "launched", "fail": fail}, tmp_path, TWO)
    assert time.monotonic() - began < 60
    for rank in (0, 1):
        assert _gone(int((tmp_path / f"{rank}.txt").read_text().split()[-1]))


def test_workers_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from align.engine.launch import *; "
        f"launch('{STAGE}', {{'stage': 'launched', 'fail': 'hang'}}, "
        f"Path({str(tmp_path)!r}), LaunchConfig(processes=2))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stderr=subprocess.DEVNULL) as child:
        files = [tmp_path / f"{rank}.txt" for rank in (0, 1)]
        deadline = time.monotonic() + 60
        while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < deadline:
            time.sleep(0.05)
        child.kill()
    workers = [int(file.read_text().split()[-1]) for file in files]
    deadline = time.monotonic() + 10
    while not all(_gone(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(_gone(worker) for worker in workers)


def test_what_cannot_be_is_refused_with_the_recipe() -> None:
    with pytest.raises(RecipeError, match=r"launch\.kind ray is not there yet"):
        parse(LaunchConfig, {"kind": "ray"}, "launch")
    with pytest.raises(RecipeError, match="processes"):
        parse(LaunchConfig, {"processes": 0}, "launch")
    with pytest.raises(RecipeError, match="fial: unknown key"):
        launch(STAGE, {"stage": "launched", "fial": "no"}, Path(), LaunchConfig())


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # A zombie waits for a parent that reads its exit code; it holds nothing.
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
