"""What a run writes and says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from align.engine import metrics as module
from align.engine.metrics import Metrics, read_metrics
from align.errors import ArtifactError, RecipeError


def test_resumed_metrics_are_the_same_bytes(tmp_path: Path) -> None:
    def log(folder: Path, start: int, end: int) -> None:
        with Metrics(folder, total=5, label="x", start=start) as metrics:
            for step in range(start, end):
                metrics.log(step, {"loss": 1 / (step + 3), "lr": 1e-5})
                metrics.timing(step, seconds=0.1)

    log(tmp_path / "straight", 0, 5)
    log(tmp_path / "died", 0, 4)
    with (tmp_path / "died" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # torn by a kill
    log(tmp_path / "died", 2, 5)
    straight, died = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("straight", "died"))
    assert died == straight
    assert [row["step"] for row in read_metrics(tmp_path / "died" / "timings.jsonl")] == [0, 1, 2, 3, 4]
    assert read_metrics(tmp_path / "died" / "metrics.jsonl")[1] == {"step": 1, "loss": 0.25, "lr": 1e-5}


def test_tensorboard_events_hold_the_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Metrics(tmp_path, total=2, label="x") as metrics:
        metrics.log(0, {"loss": 2.0})
        metrics.log(1, {"loss": 1.5})
        metrics.timing(1, seconds=0.25)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 2.0), (1, 1.5)]
    assert events.Scalars("time/seconds")[0].value == 0.25


def test_a_plain_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with Metrics(tmp_path, total=200, label="sft") as metrics:
        for step in range(25):
            clock[0] += 1.0
            metrics.log(step, {"loss": 2.0, "lr": 1e-5})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "sft: step 10/200, loss 2, lr 1e-05, 1 steps/s, 3:10 left",
        "sft: step 20/200, loss 2, lr 1e-05, 1 steps/s, 3:00 left",
    ]


def test_a_bar_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with Metrics(tmp_path, total=2, label="sft") as metrics:
        metrics.log(0, {"loss": 2.0})
        metrics.log(1, {"loss": 1.0})
    shown = capsys.readouterr().err
    assert "sft" in shown
    assert "2/2" in shown
    assert "loss 1" in shown


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.dist, "is_main", lambda: False)
    with Metrics(tmp_path / "none", total=1, label="x") as metrics:
        metrics.log(0, {"loss": 1.0})
        metrics.timing(0, seconds=1.0)
        metrics.sync()
    assert not (tmp_path / "none").exists()


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 0}) + "\nnot json\n")
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl:2: not JSON"):
        read_metrics(path)


FAKE_WANDB = """
import json, pathlib
class Run:
    def __init__(self, **given):
        self.file = pathlib.Path(given["dir"]) / "sent.jsonl"
        self.write("init", {k: v for k, v in given.items() if k != "dir"})
    def write(self, what, told):
        with self.file.open("a") as file:
            file.write(json.dumps([what, told]) + chr(10))
    def log(self, values, step):
        self.write(step, values)
    def finish(self):
        self.write("finish", None)
def init(**given):
    return Run(**given)
"""


def test_weights_and_biases_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv(module.WANDB, "before")
    module.use_wandb("mine")
    for start in (0, 1):
        with Metrics(tmp_path, total=2, label="sft", start=start) as metrics:
            metrics.log(start, {"loss": 2.0})
            metrics.timing(start, seconds=0.5)
    sent = [json.loads(line) for line in (tmp_path / "sent.jsonl").read_text().splitlines()]
    assert [what for what, _ in sent] == ["init", 0, 0, "finish", "init", 1, 1, "finish"]
    assert sent[0][1] == sent[4][1], "a resume is the same run"
    assert sent[0][1].items() >= {"project": "mine", "name": "sft", "resume": "allow"}.items()
    assert [told for _, told in sent[1:3]] == [{"loss": 2.0}, {"time/seconds": 0.5}]


def test_weights_and_biases_is_off_unless_asked_for_and_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(module.WANDB, raising=False)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with Metrics(tmp_path, total=1, label="sft") as metrics:
        metrics.log(0, {"loss": 2.0})
    with pytest.raises(RecipeError, match=r"wandb is not installed; `pip install 'align\[wandb\]'`"):
        module.use_wandb("mine")
    assert module.WANDB not in os.environ
    monkeypatch.setenv(module.WANDB, "mine")
    with pytest.raises(RecipeError, match="not installed"):
        Metrics(tmp_path / "other", total=1, label="sft")
