"""One stage: a recipe becomes an artifact, once. What is finished and unchanged is left alone."""

from __future__ import annotations

import importlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.artifacts import (
    MANIFEST,
    folder_digest,
    is_finished,
    recipe_digest,
    sha256_file,
    work_dir,
    write_json,
)
from align.config import parse, read_yaml, to_plain
from align.energy import EnergyMeter, merge
from align.errors import RecipeError, RunError, nearest
from align.lock import locked
from align.usage import PeakMemory
from align.values import leaves

STAGES: dict[str, str] = {
    "world": "align.world.make",
    "people": "align.world.people",
    "time": "align.world.time",
    "convert": "align.data.convert",
    "pretrain": "align.stages.pretrain",
    "sft": "align.stages.sft",
    "reward": "align.stages.reward",
    "rejection": "align.stages.rejection",
    "ghost": "align.stages.ghost",
    "distill": "align.stages.distill",
    "ppo": "align.stages.ppo",
    "evaluate": "align.stages.evaluate",
    "exam": "align.stages.exam",
    "attention": "align.stages.attention",
    "temperature": "align.stages.temperature",
}
RECORD = "recipe.json"  # in a stage's work folder: what the unfinished work there belongs to
USAGE = "usage.json"  # beside it: what the work has taken so far, for the report


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A checked recipe and where its artifact goes."""

    name: str
    stage: str
    recipe: Any  # the stage's config
    plain: dict[str, Any]  # the same as plain values, defaults filled in
    out: Path
    where: str  # named in messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What :func:`perform` did."""

    made: bool  # False: it was finished and unchanged
    seconds: float = 0.0
    peak_gib: float = 0.0


def load_task(path: Path, overrides: Sequence[str] = (), default_out: Path | None = None) -> Task:
    """A stage recipe from YAML, its ``out`` included.

    Raises:
        RecipeError: the recipe cannot be used as written, or says no ``out`` and there is no default.
    """
    return make_task(read_yaml(path, overrides), str(path), default_out)


def make_task(values: Mapping[str, Any], where: str, default_out: Path | None = None, name: str | None = None) -> Task:
    """Check a stage's plain values; ``out`` among them is the artifact's folder."""
    values = dict(values)
    out = values.pop("out", None)
    if out is not None and not (isinstance(out, str) and out not in ("", "???")):
        raise RecipeError(f"{where}: out: expected a folder, found {out!r}")
    place = Path(out) if out is not None else default_out
    stage = values.get("stage")
    if "pipeline" in values:
        raise RecipeError(f"{where}: this is a pipeline: `align pipeline {where}`")
    if stage not in STAGES:
        found = "missing" if stage is None else f"no stage {stage!r}{nearest(str(stage), STAGES)}"
        raise RecipeError(f"{where}: stage: {found}; there are {', '.join(STAGES)}")
    recipe = parse(importlib.import_module(STAGES[stage]).Recipe, values, where)
    if place is None:
        raise RecipeError(f"{where}: out: must be given (out=FOLDER or in the recipe)")
    return Task(name=name or place.name, stage=stage, recipe=recipe, plain=to_plain(recipe), out=place, where=where)


def perform(task: Task, say: Callable[[str], None]) -> Outcome:
    """Make the artifact of a task, or leave it where it is finished and unchanged; unfinished work goes on.

    Args:
        task: what to make.
        say: is given one line about unfinished work, where there is some.

    Raises:
        AlignError: whatever the stage says; LaunchError where another run works on the same artifact.
    """
    from align.engine.launch import LaunchConfig, launch

    with locked(task.out.with_name(task.out.name + ".lock")):
        if is_finished(task.out, task.stage, task.plain):
            return Outcome(made=False)
        prepare_work(task, say)
        began = time.perf_counter()
        peak, meter = PeakMemory(), EnergyMeter()
        try:
            with peak, meter:
                settings = getattr(task.recipe, "launch", LaunchConfig())
                launch(STAGES[task.stage], task.plain, task.out, settings)
        finally:
            _count(work_dir(task.out) / USAGE, time.perf_counter() - began, peak.gib, meter.joules)
        if not (task.out / MANIFEST).is_file():
            raise RunError(f"{task.name}: the stage {task.stage} ended without leaving an artifact at {task.out}")
        return Outcome(made=True, seconds=time.perf_counter() - began, peak_gib=peak.gib)


def prepare_work(task: Task, say: Callable[[str], None]) -> None:
    """Keep unfinished work of this very recipe and these inputs; set any other aside."""
    work = work_dir(task.out)
    record = {
        "stage": task.stage,
        "recipe_sha256": recipe_digest(task.plain),
        "sources": sources(task.plain),
    }
    if work.is_dir() and any(work.iterdir()):
        if _read(work / RECORD) == record:
            say(f"{task.name}: goes on with the work in {work}")
        else:
            aside = work.with_name(work.name + ".stale")
            if aside.exists():
                shutil.rmtree(aside)
            work.rename(aside)
            say(f"{task.name}: recipe or inputs changed; earlier work set aside in {aside}")
    write_json(work / RECORD, record)


def _count(path: Path, seconds: float, peak_gib: float, joules: Mapping[str, float]) -> None:
    """Add an attempt to what earlier ones took of the same work; one that was killed outright has left nothing."""
    before = _read(path)
    before = before if isinstance(before, dict) else {}
    taken = {
        "seconds": before.get("seconds", 0.0) + seconds,
        "peak_gib": max(before.get("peak_gib", 0.0), peak_gib),
        "joules": merge(before.get("joules", {}), joules),  # of the devices, by counter; empty where none can be read
    }
    write_json(path, taken)


def sources(plain: Mapping[str, Any]) -> dict[str, str]:
    """The digest of every file and model folder that a recipe's values name."""
    found = {}
    for _, value in leaves(plain):
        if not isinstance(value, str) or value in found:
            continue
        path = Path(value)
        # a bare word such as "local" is a value, even where a folder of that name happens to lie about
        if path.suffix and path.is_file():
            found[value] = sha256_file(path)
        elif (path / MANIFEST).is_file() or (path / "config.json").is_file():
            found[value] = folder_digest(path)
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
