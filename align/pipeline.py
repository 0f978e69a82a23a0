"""Stages in order, artifact to artifact, in one run folder: what is finished is skipped, the rest goes on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic

from align.artifacts import recipe_digest, write_json
from align.config import config, parse, read_yaml, to_plain
from align.errors import RecipeError, nearest
from align.lock import locked
from align.provenance import hide_secrets
from align.runner import STAGES, Task, make_task, perform
from align.values import lay, load, resolve

__all__ = ["STAGES", "Pipeline", "Recipe", "load_pipeline", "run"]

STATE = "pipeline.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@config
class StageEntry:
    """A stage of a pipeline: its recipe, relative to the pipeline's file, and values laid over it."""

    recipe: str
    set: dict[str, Any] = pydantic.Field(default_factory=dict)


@config
class Recipe:
    """Stages by name, in the order they run. ``@name`` in ``set`` is an earlier stage's artifact."""

    pipeline: str
    out: str
    seed: int = 0  # for ${seed}
    data: str | None = None  # for ${data}
    model: str | None = None  # for ${model}: a model from elsewhere
    safety: str | None = None  # for ${safety}: a safety reward model from elsewhere
    # drawn by the whole machine: the report reckons energy with it where the machine counts none
    watts: Annotated[float, pydantic.Field(gt=0)] | None = None
    stages: Annotated[dict[str, StageEntry], pydantic.Field(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse names that are no folder names."""
        for name in self.stages:
            if not _NAME.fullmatch(name) or name == "work":
                raise ValueError(f"stages: {name!r}: a stage's name is letters, digits, - and _, and not 'work'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A checked pipeline: one task a stage."""

    name: str
    out: Path
    plain: dict[str, Any]
    tasks: tuple[Task, ...]


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """A pipeline and the recipes of all its stages, checked before anything runs.

    Args:
        path: the pipeline's YAML.
        overrides: ``key=value``; ``stages.NAME.set.KEY=value`` reaches into a stage, ``stages.NAME=null`` leaves it
            out.

    Raises:
        RecipeError: a mistake in the pipeline or in a stage's recipe, or ``@name`` of no earlier stage.
    """
    values = load(path)
    _spread(values)
    known = list(values.get("stages") or {})
    values = resolve(values, overrides, {}, str(path))
    _leave_out(values, known, str(path))
    if "pipeline" not in values and "stage" in values:
        raise RecipeError(f"{path}: this is the recipe of one stage: `align run {path}`")
    recipe = parse(Recipe, values, str(path))
    out, names = Path(recipe.out), list(recipe.stages)
    tasks = []
    for number, (name, entry) in enumerate(recipe.stages.items()):
        where = f"{path}: stages.{name}"
        earlier, later = names[:number], names[number:]
        settings = {key: _refer(value, out, earlier, later, f"{where}.set.{key}") for key, value in entry.set.items()}
        source = path.parent / entry.recipe
        stage_values = read_yaml(source, settings=settings) | {"out": str(out / name)}
        tasks.append(make_task(stage_values, f"{source} (stage {name})", name=name))
    return Pipeline(name=recipe.pipeline, out=out, plain=to_plain(recipe), tasks=tuple(tasks))


def run(pipeline: Pipeline, say: Callable[[str], None] = print) -> None:
    """Run what is not finished, in order.

    Args:
        pipeline: from :func:`load_pipeline`.
        say: is given a line a stage: seconds and peak memory, or that it is unchanged.

    Raises:
        AlignError: whatever a stage says; LaunchError where another run works in the folder.
    """
    pipeline.out.mkdir(parents=True, exist_ok=True)
    with locked(pipeline.out / ".lock"):
        state = _State(pipeline)
        for number, task in enumerate(pipeline.tasks, 1):
            label = f"[{number}/{len(pipeline.tasks)}] {task.name}"
            say(f"{label}: {task.stage}")
            began = time.perf_counter()
            state.set(task, state="running")
            try:
                outcome = perform(task, say)
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt)
                state.set(
                    task,
                    state="interrupted" if interrupted else "failed",
                    seconds=round(time.perf_counter() - began, 3),
                )
                raise
            if outcome.made:
                state.set(
                    task,
                    state="finished",
                    seconds=round(outcome.seconds, 3),
                    peak_gib=round(outcome.peak_gib, 3),
                )
                say(f"{label}: {outcome.seconds:.1f} s, peak {outcome.peak_gib:.2f} GiB")
            else:
                state.set(task, state="finished")
                say(f"{label}: finished and unchanged, skipped")


class _State:
    """``pipeline.json``: the resolved recipe and how far each stage is, rewritten whole at every change."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._path = pipeline.out / STATE
        before = self._read()
        self._values: dict[str, Any] = {
            "pipeline": pipeline.name,
            "recipe": hide_secrets(pipeline.plain),
            "stages": {
                task.name: {
                    "state": "waiting",
                    # what an earlier start measured stands where the stage is skipped now
                    **_measured(before.get(task.name, {}), task),
                    "stage": task.stage,
                    "artifact": task.name,
                    "recipe_sha256": recipe_digest(task.plain),
                }
                for task in pipeline.tasks
            },
        }
        write_json(self._path, self._values)

    def set(self, task: Task, **values: Any) -> None:
        self._values["stages"][task.name] |= values
        write_json(self._path, self._values)

    def _read(self) -> Mapping[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        stages: Mapping[str, Any] = found.get("stages", {}) if isinstance(found, dict) else {}
        return stages


def _measured(before: Mapping[str, Any], task: Task) -> dict[str, Any]:
    if before.get("recipe_sha256") != recipe_digest(task.plain):
        return {}
    return {key: before[key] for key in ("seconds", "peak_gib") if key in before}


def _spread(values: dict[str, Any]) -> None:
    """Turn dotted keys of every ``set`` into sections, so that overrides from the command line reach them."""
    stages = values.get("stages")
    for name, entry in stages.items() if isinstance(stages, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("set"), dict):
            spread: dict[str, Any] = {}
            for key, value in entry["set"].items():
                lay(spread, str(key), value, f"stages.{name}.set")
            entry["set"] = spread


def _leave_out(values: dict[str, Any], known: Sequence[str], where: str) -> None:
    """Take out the stages that are null."""
    stages = values.get("stages")
    for name in [name for name, entry in stages.items() if entry is None] if isinstance(stages, dict) else ():
        if name not in known:
            raise RecipeError(f"{where}: stages.{name}: no stage of that name to leave out{nearest(name, known)}")
        del values["stages"][name]


def _refer(value: Any, out: Path, earlier: Sequence[str], later: Sequence[str], where: str) -> Any:
    """``@name`` and ``@name/file`` as paths, anywhere within a value."""
    if isinstance(value, Mapping):
        return {key: _refer(item, out, earlier, later, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_refer(item, out, earlier, later, f"{where}.{i}") for i, item in enumerate(value)]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    name, _, rest = value[1:].partition("/")
    if name in later:
        raise RecipeError(f"{where}: {value!r}: the stage {name!r} does not come before this one")
    if name not in earlier:
        raise RecipeError(
            f"{where}: {value!r}: no earlier stage of that name{nearest(name, earlier)}; "
            f"there are {', '.join(earlier) or 'none'}"
        )
    return (out / name / rest).as_posix() if rest else (out / name).as_posix()
