"""A rejection-sampling job whose actors die or hang on the way leaves the data of an undisturbed one, byte for byte."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from align.runner import make_task, perform
from tests.rollout import job


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    job.make_models(root)
    return root


def run(models: Path, out: Path, **pool: Any) -> dict[str, bytes]:
    perform(make_task(job.recipe(models, out, **pool), "test"), print)
    return job.dataset(out)


@pytest.fixture(scope="module")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The data, made in this process with as many threads as an actor has, and the seconds that it took."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begun = time.monotonic()
    try:
        found = run(models, tmp_path_factory.mktemp("undisturbed") / "reject", kind="local")
    finally:
        torch.set_num_threads(threads)
    seconds = time.monotonic() - begun
    assert len(found["rollouts.jsonl"].splitlines()) == 2 * job.PROMPTS * job.SAMPLES
    assert len(found["best.jsonl"].splitlines()) > 10
    return found, seconds


@pytest.mark.slow  # quickly, a pool whose actors are killed and hang: tests/rollout/test_pool.py
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "hang"])
def test_actors_struck_twice_leave_the_same_bytes(
    number: int, models: Path, undisturbed: tuple[dict[str, bytes], float], tmp_path: Path, capfd: Any
) -> None:
    out = tmp_path / "reject"
    data, seconds = undisturbed
    timeout = 120.0 if number == signal.SIGKILL else max(4.0, seconds)  # no call of an actor that is well takes as long
    with job.struck(out, os.getpid(), number, times=2) as hit:
        found = run(models, out, timeout_s=timeout)
    assert len(hit) == 2
    assert found == data
    said = capfd.readouterr().err
    assert said.count("another takes its place") >= 2
    assert any(f"(process {pid} on " in said for pid in hit), said  # on a slow machine one may be hit coming up


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("actors", [1, 3])
def test_the_number_of_actors_changes_no_byte(
    actors: int, models: Path, undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    assert run(models, tmp_path / "reject", actors=actors) == undisturbed[0]
