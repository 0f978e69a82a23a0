"""The same recipe by one process, by torchrun's and by Ray Train's workers; and when one of them is killed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from align.artifacts import work_dir, write_jsonl
from align.engine.metrics import read_metrics
from align.model.weights import load_policy
from tests.conftest import REPO
from tests.rollout.job import alive, descendants, until
from tests.stages.test_ppo_resume import plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LAUNCH: dict[str, dict[str, Any]] = {
    "one": {},
    "torchrun": {"processes": 2},
    "ray": {"kind": "ray", "processes": 2},
}
WORKER = {"torchrun": b"align.engine.worker", "ray": b"ray::RayTrainWorker"}


def ranks(command: int, kind: str) -> list[int]:
    """The workers below a command; torchrun's own command line names them too, so a worker has none below itself."""
    named = {}
    for pid in descendants(command):
        with suppress(FileNotFoundError, ProcessLookupError):
            if WORKER[kind] in Path(f"/proc/{pid}/cmdline").read_bytes():
                named[pid] = set(descendants(pid))
    found = [pid for pid, below in named.items() if not below & set(named)]
    assert len(found) == 2
    return found


class Runs:
    """Commands of recipes, each finished once; every process of theirs carries a mark in its environment."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.models, self.folder = models, folder
        self.mark = uuid.uuid4().hex
        self.temporary = tempfile.mkdtemp(prefix="align")  # short: the names of Ray's sockets are bounded
        self.finished: dict[tuple[str, str], Path] = {}

    def recipe(self, stage: str, kind: str) -> dict[str, Any]:
        if stage == "ppo":
            values = plain(self.models, self.folder, ppo={"iterations": 8}, held_out=None)
        else:
            said = [("who says yes?", "a fox"), ("who says no?", "an owl says no"), ("hello", "hello, who says so?")]
            turns = [
                [{"role": "user", "content": f"{i} {q}"}, {"role": "assistant", "content": a}]
                for i in range(10)
                for q, a in said
            ]
            write_jsonl(self.folder / "sft.jsonl", [{"messages": messages} for messages in turns])
            values = {
                "stage": "sft", "policy": str(self.models / "one" / "policy"),
                "data": [{"path": str(self.folder / "sft.jsonl")}],
                "batch": {"rows": 4, "micro_rows": 1, "length": 96, "epochs": 25},
                "optim": {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1, "clip": 1.0,
                          "schedule": "cosine"},
                "zero": {"stage": 0, "dtype": "fp32"}, "save_every": 5,
            }  # fmt: skip
        return values | {"launch": LAUNCH[kind]}

    def start(self, stage: str, kind: str, out: Path) -> subprocess.Popen[str]:
        path = out.with_suffix(".yaml")
        path.write_text(json.dumps(self.recipe(stage, kind)))
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "RAY_TMPDIR": self.temporary, "ALIGN_MARK": self.mark,
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "align.cli", "run", str(path), f"out={out}"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, stage: str, kind: str) -> Path:
        if (stage, kind) not in self.finished:
            out = self.folder / f"{stage}-{kind}"
            with self.start(stage, kind, out) as command:
                told = command.communicate(timeout=900)[1]
            assert command.returncode == 0, told
            self.finished[stage, kind] = out
        return self.finished[stage, kind]

    def marked(self) -> list[int]:
        """Processes of these commands that live."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (place / "environ").read_bytes() and alive(int(place.name)):
                    found.append(int(place.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found


@pytest.fixture(scope="module")
def runs(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(models, tmp_path_factory.mktemp("runs"))
    yield made
    shutil.rmtree(made.temporary, ignore_errors=True)


def same(one: Path, other: Path, apart: float) -> None:
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (one, other)]
    assert len(rows[0]) == len(rows[1]) > 5
    for first, second in zip(*rows, strict=True):
        assert second == pytest.approx(first, abs=1e-4)
    expected = dict(load_policy(one).named_parameters())
    for name, parameter in load_policy(other).named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=apart)


@pytest.mark.parametrize("kind", ["torchrun", "ray"])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_two_workers_do_what_one_process_does(runs: Runs, stage: str, kind: str) -> None:
    same(runs.finish(stage, "one"), runs.finish(stage, kind), 2e-5)
    assert until(lambda: not runs.marked(), 20)


@pytest.mark.parametrize("kind", ["torchrun", "ray"])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_killed_rank_is_told_and_the_same_command_goes_on(runs: Runs, stage: str, kind: str, tmp_path: Path) -> None:
    out = tmp_path / stage
    log = work_dir(out) / "metrics.jsonl"
    with runs.start(stage, kind, out) as command:
        until(lambda: log.exists() and len(log.read_bytes().splitlines()) >= (8 if stage == "sft" else 3), 600)
        os.kill(random.choice(ranks(command.pid, kind)), signal.SIGKILL)
        killed = time.monotonic()
        said, told = command.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert command.returncode == 1, (said, told)
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, told
    at = r"step \d+ of \d+" if stage == "sft" else r"iteration \d of 8, \w+"
    assert re.match(rf"error: rank [01] of 2 was killed in (saving after )?{at} \(", errors[0]), told
    assert "Traceback" not in told
    assert until(lambda: not runs.marked(), 20)
    with runs.start(stage, kind, out) as command:
        said, told = command.communicate(timeout=900)
    assert command.returncode == 0, told
    assert "goes on with the work in" in said + told
    same(runs.finish(stage, kind), out, 1e-6)
