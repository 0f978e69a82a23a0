"""PPO runs for a test to kill, as jobs of ``tests.forked``.

A run appends each phase's name to ``marks`` as it begins, and keeps its last checkpoint beside the artifact, which the
stage itself throws away.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tests.forked import Forks


class Server(Forks):
    """The process that forks a child for each run."""

    def __init__(self) -> None:
        super().__init__("tests.stages.ppo_server")

    def run(self, recipe: dict[str, Any], out: Path, phase: str | None = None, at: int = 1, late: float = 0.0) -> int:
        """Start a run, and kill it with SIGKILL when a phase begins.

        Args:
            recipe: plain values.
            out: the artifact.
            phase: its name; None lets the run end.
            at: its how manieth beginning.
            late: seconds after.

        Returns:
            exit code: 0 where the run came to its end, -9 where it was killed.
        """
        marks = out.with_name("marks")
        marks.write_text("")
        child = self.start(recipe, str(out), str(marks))
        while phase and marks.read_text().split().count(phase) < at and "over" not in marks.read_text():
            time.sleep(0.0005)
        if phase and "over" not in marks.read_text():
            time.sleep(late)
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(child, signal.SIGKILL)
        return self.ended()


def same_but_for_times(one: Path, other: Path) -> list[str]:
    """Files of two folders that differ, but for what tells the time."""
    names = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    differ = [
        str(name)
        for name in names
        if not ((one / name).is_file() and (other / name).is_file())
        or (one / name).read_bytes() != (other / name).read_bytes()
    ]
    return sorted(set(differ) - {"manifest.json", "timings.jsonl"})


def chance() -> tuple[int, random.Random]:
    seed = int.from_bytes(os.urandom(4))
    return seed, random.Random(seed)


def ready() -> None:
    """What a run imports."""
    import numpy
    import torch
    import torch.utils.tensorboard

    import align.engine.export
    import align.engine.step
    import align.rollout.judge
    import align.rollout.local
    import align.stages.ppo.loop
    import align.stages.ppo.models
    from align.engine.zero import _deepspeed

    _deepspeed()
    assert all((numpy, torch, align))


def job(recipe: dict[str, Any], folder: str, marks: str) -> None:
    """One run."""
    from align.config import parse
    from align.stages import ppo

    with Path(marks).open("a", buffering=1) as told:
        _tell(told, Path(folder))
        try:
            ppo.run(parse(ppo.Recipe, recipe, "ppo.yaml"), Path(folder))
        finally:
            told.write("over\n")


def _tell(told: TextIO, out: Path) -> None:
    from align.engine.clock import Clock
    from align.stages.ppo.loop import Loop

    timed, published = Clock.time, Loop.publish

    def time_and_tell(self: Clock, phase: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        told.write(phase + "\n")
        return timed(self, phase, call, *args, **kwargs)

    def publish_and_keep(self: Loop) -> None:
        newest = max((self.work / "checkpoints").iterdir())
        shutil.copytree(newest, out.with_name(out.name + "-checkpoint"), dirs_exist_ok=True)
        told.write("publish\n")
        published(self)

    Clock.time, Loop.publish = time_and_tell, publish_and_keep  # type: ignore[method-assign,assignment]
