"""Fake stages: `count` leaves a file a step in its work folder; `join` has parents. And pipelines of them."""

from __future__ import annotations

import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pydantic

from align.artifacts import building, publish, work_dir, write_text
from align.config import config, to_plain
from align.errors import TrainingError
from align.runner import STAGES


@config
class CountRecipe:
    stage: Literal["count"]
    seed: int = 0
    steps: int = 3
    nap: float = 0.0
    source: str | None = None
    fail_at: int | None = None
    leave_nothing: bool = False


def count(recipe: CountRecipe, out: Path) -> None:
    work = work_dir(out)
    done = len(list(work.glob("step-*")))
    for step in range(done, recipe.steps):
        if step == recipe.fail_at:
            raise TrainingError("loss is NaN")
        time.sleep(recipe.nap)
        write_text(work / f"step-{step}", "done")
    if recipe.leave_nothing:
        return
    with building(out) as folder:
        write_text(folder / "count.txt", f"{recipe.steps} from {done}")
        publish(
            folder, out, stage="count", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            inputs=[Path(recipe.source)] if recipe.source else [],
        )  # fmt: skip


@config
class JoinRecipe:
    stage: Literal["join"]
    seed: int = 0
    parents: list[str]
    files: dict[str, str] = pydantic.Field(default_factory=dict)
    label: str = ""


def join(recipe: JoinRecipe, out: Path) -> None:
    parents = [Path(parent) for parent in recipe.parents]
    with building(out) as folder:
        write_text(folder / "joined.txt", ",".join(parent.name for parent in parents) + recipe.label)
        publish(
            folder, out, stage="join", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=parents, inputs=[Path(path) for path in recipe.files.values()],
        )  # fmt: skip


def register(set_item: Callable[[Any, str, Any], None]) -> None:
    for name, recipe, body in [("count", CountRecipe, count), ("join", JoinRecipe, join)]:
        module = types.ModuleType(f"fake_{name}")
        module.Recipe, module.run = recipe, body  # type: ignore[attr-defined]
        set_item(sys.modules, f"fake_{name}", module)
        set_item(STAGES, name, f"fake_{name}")


def write_pipeline(folder: Path, stages: str | None = None) -> Path:
    (folder / "count.yaml").write_text("stage: count\nseed: 0\nsteps: ???\n")
    (folder / "join.yaml").write_text("stage: join\nparents: ???\n")
    path = folder / "pipeline.yaml"
    path.write_text(
        f"pipeline: test\nout: {folder}/run\nseed: 7\ndata: {folder}\nstages:\n"
        + (
            stages
            or """
  one: {recipe: count.yaml, set: {seed: "${seed}", steps: 2}}
  two: {recipe: count.yaml, set: {steps: 3, source: "${data}/input.txt"}}
  both:
    recipe: join.yaml
    set:
      parents: ["@one", "@two"]
      files: {text: "@one/count.txt"}
  last: {recipe: join.yaml, set: {parents: ["@both"]}}
"""
        )
    )
    (folder / "input.txt").write_text("a")
    return path


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
sys.path.insert(0, sys.argv[1])
from tests import fake_stages
fake_stages.register(lambda mapping, key, value: mapping.__setitem__(key, value))
sys.argv = ["align", *sys.argv[2:]]
from align.cli import main
main()
"""


def command(*arguments: str) -> list[str]:
    """The command line with the fake stages registered, to be run in a process of its own."""
    return [sys.executable, "-c", DRIVER, str(Path(__file__).parent.parent), *arguments]


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if found():
            return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    raise AssertionError("it never came so far")
