"""Pipelines that are killed, interrupted or started twice, as processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from align.errors import LaunchError
from align.pipeline import load_pipeline, run
from align.runner import load_task, perform
from tests.fake_stages import command, register, wait_for, write_pipeline


@pytest.fixture(autouse=True)
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch.setitem)


def test_killed_in_a_stage_the_same_command_finishes(tmp_path: Path) -> None:
    stages = (
        "  one: {recipe: count.yaml, set: {steps: 2}}\n"
        "  two: {recipe: count.yaml, set: {steps: 20, nap: 0.05}}\n"
        "  both: {recipe: join.yaml, set: {parents: ['@one', '@two']}}\n"
    )
    path = write_pipeline(tmp_path, stages)
    steps = tmp_path / "run/work/two"
    for target in (3, 8):  # killed twice, at different places
        with subprocess.Popen(command("pipeline", str(path)), stdout=subprocess.DEVNULL, text=True) as process:
            wait_for(lambda n=target: len(list(steps.glob("step-*"))) >= n, process)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
        assert (tmp_path / "run/.lock").exists()
        assert json.loads((tmp_path / "run/pipeline.json").read_text())["stages"]["two"]["state"] == "running"
    done = len(list(steps.glob("step-*")))
    assert 8 <= done < 20
    last = subprocess.run(command("pipeline", str(path)), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert "[1/3] one: finished and unchanged, skipped" in last.stdout
    assert (tmp_path / "run/two/count.txt").read_text() == f"20 from {done}"
    assert (tmp_path / "run/both/joined.txt").read_text() == "one,two"
    assert not (tmp_path / "run/.lock").exists()


def test_interrupted_it_says_so_and_exits_130(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, "  two: {recipe: count.yaml, set: {steps: 500, nap: 0.05}}\n")
    with subprocess.Popen(command("pipeline", str(path)), stdout=-3, stderr=-1, text=True) as process:
        wait_for((tmp_path / "run/work/two/step-1").exists, process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "interrupted; the same command resumes\n")
    assert json.loads((tmp_path / "run/pipeline.json").read_text())["stages"]["two"]["state"] == "interrupted"
    assert not (tmp_path / "run/.lock").exists()


def test_a_run_failure_exits_1_with_one_line(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 2, fail_at: 1}}\n")
    done = subprocess.run(command("pipeline", str(path)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: loss is NaN\n")


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 500, nap: 0.05}}\n")
    with subprocess.Popen(command("pipeline", str(path)), stdout=subprocess.DEVNULL, text=True) as process:
        try:
            wait_for((tmp_path / "run/work/one/step-0").exists, process)
            with pytest.raises(LaunchError, match=f"process {process.pid} works in this folder"):
                run(load_pipeline(path), print)
            task = load_task(tmp_path / "count.yaml", ["steps=2", f"out={tmp_path}/run/one"])
            with pytest.raises(LaunchError, match="works in this folder"):
                perform(task, print)
        finally:
            process.kill()
