"""The same job by its command: what a user sees, and finds again, when actors keep dying or the command is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.rollout import job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    job.make_models(root)
    return root


@contextmanager
def command(recipe: dict[str, Any], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """``align run`` as a user starts it; whatever of it is left in the end is killed."""
    path = folder / "reject.yaml"
    path.write_text(json.dumps(recipe))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUIET
    with subprocess.Popen(
        [sys.executable, "-m", "align.cli", "run", str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        started: set[int] = set()
        try:
            watch = threading.Thread(target=_remember, args=(running, started), daemon=True)
            watch.start()
            yield running
        finally:
            running.kill()
            watch.join()
            for pid in started:
                if job.alive(pid) and b"ray" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def _remember(running: subprocess.Popen[str], started: set[int]) -> None:
    while running.poll() is None:
        started.update(job.descendants(running.pid))
        time.sleep(0.2)


@pytest.fixture(scope="module")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "reject"
    with command(job.recipe(models, out), out.parent) as running:
        _, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    return job.dataset(out)


def test_the_command_killed_and_started_again_leaves_the_same_bytes_and_samples_nothing_twice(
    models: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "reject"
    recipe = job.recipe(models, out)
    kept: list[bytes] = []
    for share in (4, 2):  # killed after a quarter and after half of the chunks
        with command(recipe, tmp_path) as running:
            job.until(lambda share=share: len(job.journalled(out)) >= job.CHUNKS // share, 200)
            below = job.actors_below(running.pid)
            assert len(below) == 2
            running.kill()
            running.wait()
            job.until(lambda below=below: not any(map(job.alive, below)), 60)  # actors end with their driver
        assert not out.exists()
        lines = job.journalled(out)
        assert set(kept) <= set(lines)
        assert len(lines) < job.CHUNKS
        kept = lines
    with command(recipe, tmp_path) as running:
        told, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert "goes on with the work in" in told
    assert job.dataset(out) == undisturbed
    lines = job.journalled(out)
    assert set(kept) <= set(lines), "what was written down is left as it was"
    drawn = [(name, *address) for name in kept_files(out) for address in addresses(name)]
    assert len(drawn) == len(set(drawn)) == 2 * job.PROMPTS * job.SAMPLES


def kept_files(out: Path) -> list[Path]:
    files = (out.parent / "work" / out.name).rglob("*.jsonl")
    return [path for path in files if re.match(rb"\[\[\d", path.read_bytes())]


def addresses(path: Path) -> list[tuple[int, int]]:
    chunks = [json.loads(line) for line in path.read_text().splitlines()]
    return [(prompt, sample) for chunk in chunks for prompt, sample, *_ in chunk]


def test_actors_that_always_die_end_in_one_clear_line_and_what_was_done_is_kept(
    models: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "reject"
    recipe = job.recipe(models, out, retries=1)
    with command(recipe, tmp_path) as running:
        job.until(lambda: len(job.journalled(out)) >= 5, 200)
        while running.poll() is None:
            for pid in job.actors_below(running.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        _, said = running.communicate()
    assert running.returncode == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: actor ")
    assert "was lost: " in last
    assert last.endswith("2 actors were lost so")
    kept = job.journalled(out)
    assert len(kept) >= 5
    with command(recipe, tmp_path) as running:  # well this time
        _, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert job.dataset(out) == undisturbed
    assert set(kept) <= set(job.journalled(out))


def test_an_actor_that_cannot_be_placed_says_what_it_asks_for(models: Path, tmp_path: Path) -> None:
    recipe = job.recipe(models, tmp_path / "reject", gpus=64.0, start_timeout_s=4.0, retries=0)
    with command(recipe, tmp_path) as running:
        _, said = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "did not answer within 4 s (it asks for 1 CPUs and 64 GPUs; free in the cluster: " in said
    assert "of 0 GPUs" in said or "GPUs)" in said


def test_a_cluster_that_is_not_there_is_told_at_once(models: Path, tmp_path: Path) -> None:
    recipe = job.recipe(models, tmp_path / "reject", address="127.0.0.1:9")
    with command(recipe, tmp_path) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert said.strip().startswith("error: Ray at 127.0.0.1:9: ")
    assert "ray start --head" in said
