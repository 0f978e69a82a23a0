"""PPO runs for a test to kill: one process imports everything once and forks a child for each run it is asked for.

``python -m tests.stages.ppo_server`` reads lines of JSON (recipe, out, marks), prints the child's process id, and when
that has ended its exit code. The child appends each phase's name to ``marks`` as it begins, and keeps its last
checkpoint beside the artifact, which the stage itself throws away.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import REPO


class Server:
    """The other process, from the test's side."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.stages.ppo_server"],
            cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

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
        assert self.process.stdin
        assert self.process.stdout
        marks = out.with_name("marks")
        marks.write_text("")
        self.process.stdin.write(json.dumps([recipe, str(out), str(marks)]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        while phase and marks.read_text().split().count(phase) < at and "over" not in marks.read_text():
            time.sleep(0.0005)
        if phase and "over" not in marks.read_text():
            time.sleep(late)
            os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())


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


def _child(recipe: dict[str, Any], out: Path, marks: Path) -> None:
    from align.config import parse
    from align.engine.clock import Clock
    from align.stages import ppo
    from align.stages.ppo.loop import Loop

    told = marks.open("a", buffering=1)
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
    ppo.run(parse(ppo.Recipe, recipe, "ppo.yaml"), out)
    told.write("over\n")


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    # what a run imports, without any of its threads: they would not survive the fork
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
    for line in sys.stdin:
        recipe, out, marks = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 0
            try:
                _child(recipe, Path(out), Path(marks))
            except BaseException:
                traceback.print_exc()
                code = 1
                Path(marks).write_text("over\n")
            sys.stderr.flush()
            os._exit(code)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    import align as first

    assert first  # before torch: it sets how OpenMP's threads wait
    main()
