"""Stages in several processes: they end well together, or the first failure is told and the others end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
        (
            "killed",
            LaunchError,
            r"^rank 1 of 2 was killed in the part that rank 1 plays \(SIGKILL: by hand, or by the system when memory "
            r"ran out\)(; rank 0 lost its connection in the part that rank 0 plays)?; the same command goes on",
        ),
    ],
)
def test_the_failing_rank_is_told_within_a_minute(
    tmp_path: Path, fail: str, kind: type[Exception], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind, match=told):
        launch(STAGE, {"stage": "launched", "fail": fail}, tmp_path, TWO)
    assert time.time() - (tmp_path / "1.txt").stat().st_mtime < 60, "since it was up"
    said = capfd.readouterr().err
    assert ("Traceback" in said) == (fail == "bug"), "a bug keeps its traceback"
    assert fail == "bug" or said in ("", "said on stderr\n"), "torchrun's own report is not the user's"
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
        deadline = time.monotonic() + 180
        while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < deadline:
            time.sleep(0.05)
        child.kill()
    workers = [int(file.read_text().split()[-1]) for file in files]
    deadline = time.monotonic() + 10
    while not all(_gone(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(_gone(worker) for worker in workers)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"processes": 0}, "processes"),
        ({"kind": "rya"}, "kind"),
        ({"kind": "local", "address": "auto"}, r"launch\.address: only with launch\.kind ray"),
        ({"processes": 2, "cpus": 2.0}, r"launch\.cpus: only with launch\.kind ray"),
        ({"gpus": 1}, r"launch\.gpus: only with"),
        ({"start_timeout_s": 5.0}, r"launch\.start_timeout_s: only with"),
        ({"kind": "ray", "address": "ray://head:10001"}, r"found 'ray://head:10001', expected auto or HOST:PORT"),
        ({"kind": "ray", "address": "head"}, "expected auto or HOST:PORT"),
        ({"kind": "ray", "gpus": 2}, "gpus"),
        ({"kind": "ray", "cpus": 0.0}, "cpus"),
    ],
)
def test_what_cannot_be_is_refused_with_the_recipe(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        parse(LaunchConfig, settings, "launch")


@pytest.mark.parametrize("address", [None, "auto", "10.0.0.1:6379", "head.cluster:6379"])
def test_what_can_be_is_taken(address: str | None) -> None:
    assert parse(LaunchConfig, {"kind": "ray", "processes": 1, "address": address}, "launch").address == address


def test_a_wrong_recipe_is_told_without_a_rank() -> None:
    with pytest.raises(RecipeError, match="fial: unknown key"):
        launch(STAGE, {"stage": "launched", "fial": "no"}, Path(), LaunchConfig())


@pytest.mark.parametrize("opened", [False, True])
def test_nobody_at_an_address_is_told_at_once(opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not this process has Ray open, as it may after other tests."""
    monkeypatch.setattr("ray.is_initialized", lambda: opened)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(LaunchError, match=rf"Ray at {address}: .*start it with `ray start --head`"):
            launch(STAGE, {"stage": "launched"}, tmp_path, LaunchConfig(kind="ray", address=address))


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # A zombie waits for a parent that reads its exit code; it holds nothing.
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
