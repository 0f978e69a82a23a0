"""One stage from the command line: its task, its running, and what is said when it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from align.artifacts import read_manifest
from align.config import read_values, read_yaml
from align.errors import RecipeError
from align.runner import Task, make_task, perform


def task_of(recipe: Path | None, overrides: Sequence[str], stage: str, out: Path | None) -> Task:
    """The task of a verb that names its stage itself.

    Args:
        recipe: a file, or None: ``overrides`` alone.
        overrides: ``key=value``.
        stage: that the recipe has to be of.
        out: where the artifact goes if the recipe does not say.

    Raises:
        RecipeError: a mistake in it, or a recipe of another stage.
    """
    where = str(recipe or stage)
    values = read_yaml(recipe, overrides) if recipe else {"stage": stage, **read_values(overrides, stage)}
    if values.get("stage") != stage:
        raise RecipeError(f"{where}: stage: found {values.get('stage')!r}, expected {stage!r}")
    return make_task(values, where, out)


def perform_and_tell(task: Task, say: Callable[[str], None]) -> None:
    """Run a stage; say how long it took, and of some the tables that they fill.

    Args:
        task: the stage.
        say: is given a line or a table at a time.
    """
    outcome = perform(task, say)
    if outcome.made:
        say(f"{task.out}: {outcome.seconds:.1f} s, peak {outcome.peak_gib:.2f} GiB")
    else:
        say(f"{task.out}: finished and unchanged, skipped")
    if task.stage in ("evaluate", "distill"):
        from align.report.summary import tables_of
        from align.report.tables import markdown

        say("\n" + "\n\n".join(markdown(table) for table in tables_of({task.out: read_manifest(task.out)})))
