"""`align check`: a recipe, its data, its parents and its memory, without loading a model."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from align.commands.memory import estimate
from align.errors import AlignError, DataError, nearest
from align.model.config import LlamaConfig
from align.runner import Task, load_task
from align.values import leaves, load

# "rounds" are folders of rejection; "foreign" is a file in someone else's format, which only the stage itself can read
Kind = Literal[
    "model",
    "text",
    "dialogs",
    "compared",
    "prompts",
    "constraints",
    "preprompts",
    "rollouts",
    "rounds",
    "foreign",
    "conversations",
]

# what a stage's recipe names, by dotted key; `*` stands for any item
USES: dict[str, dict[str, Kind]] = {
    "world": {},
    "people": {"rollouts.*": "rollouts"},
    "time": {},
    "convert": {"jobs.*.path": "foreign"},
    "pretrain": {"text.paths.*": "text"},
    "sft": {"policy": "model", "data.*.path": "dialogs"},
    "reward": {
        "policy": "model",
        "data.main.*": "compared",
        "data.other.*": "compared",
        "held_out.*": "compared",
    },
    "rejection": {
        "policies.*": "model",
        "history.*": "rounds",
        "sampler": "rounds",
        "helpful": "model",
        "safety": "model",
        "prompts": "prompts",
    },
    "ghost": {"policy": "model", "prompts": "prompts", "constraints": "constraints"},
    "distill": {"policy": "model", "safety": "model", "prompts": "prompts", "preprompts": "preprompts"},
    "ppo": {
        "policy": "model",
        "helpful": "model",
        "safety": "model",
        "prompts": "prompts",
        "held_out.prompts": "prompts",
        "ptx.data.*.path": "dialogs",
        "ptx.text.*": "text",
    },
    "evaluate": {
        "policies.*": "model",
        "reference": "model",
        "rewards.helpful": "model",
        "rewards.safety": "model",
        "prompts": "prompts",
        "dialogues.prompts": "prompts",
    },
    "exam": {
        "policies.*": "model",
        "truthfulqa.path": "foreign",
        "winogender.path": "foreign",
        "winogender.occupations": "foreign",
        "gsm8k.path": "foreign",
        "gsm8k.shots.path": "foreign",
        "humaneval.path": "foreign",
    },
    "attention": {"policies.*": "model", "dialogues": "conversations"},
    "temperature": {"policies.*": "model", "prompts.*.path": "prompts"},
}


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier stages of a pipeline have told."""

    made: dict[Path, str] = field(default_factory=dict)  # the folders that stages will make, and their names
    sizes: dict[str, LlamaConfig] = field(default_factory=dict)  # of the models in them, by folder
    read: dict[str, str] = field(default_factory=dict)  # what was said of a data file
    skip_bad: bool = False  # count bad rows and write them aside rather than stop at the first


def check(path: Path, overrides: Sequence[str], skip_bad: bool = False) -> Iterator[str | AlignError]:
    """Look at a stage's or a pipeline's recipe: lines to print, and every mistake that is found.

    A mistake in the recipe itself hides the rest and is raised.

    Args:
        path: the recipe.
        overrides: ``key=value``.
        skip_bad: bad rows of data are no mistakes but written to ``<file>.bad.jsonl`` and counted.

    Raises:
        RecipeError: the recipe cannot be used as written.
    """
    if "pipeline" in load(path):
        from align.pipeline import load_pipeline

        pipeline = load_pipeline(path, overrides)
        yield f"{path}: pipeline {pipeline.name}: {len(pipeline.tasks)} stages into {pipeline.out}"
        known = Known(made={task.out: task.name for task in pipeline.tasks}, skip_bad=skip_bad)
        for task in pipeline.tasks:
            yield from _task(task, known)
    else:
        yield from _task(load_task(path, overrides, default_out=Path("unnamed")), Known(skip_bad=skip_bad))


def _task(task: Task, known: Known) -> Iterator[str | AlignError]:
    yield f"{task.where}: {task.stage}: the recipe is good"
    for key, value in leaves(task.plain):
        kind = next((k for pattern, k in USES[task.stage].items() if fnmatch.fnmatchcase(key, pattern)), None)
        if kind is None or value is None:
            continue
        maker = next((name for folder, name in known.made.items() if _within(Path(value), folder)), None)
        if maker and not Path(value).exists():
            yield f"  {key}: {value}: to be made by the stage {maker}"
            continue
        try:
            if value not in known.read:
                told = _model(Path(value)) if kind == "model" else _data(value, kind, known.skip_bad)
                known.read[value] = told
            yield f"  {key}: {value}: {known.read[value]}"
        except AlignError as error:
            yield type(error)(f"{task.where}: {key}: {error}")
    if needed := estimate(task, known.sizes):
        parts = ", ".join(f"{what} {size:.2f}" for what, size in needed.items())
        yield f"  memory of each process: {sum(needed.values()):.2f} GiB ({parts})"


def _within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _data(path: str, kind: Kind, skip_bad: bool) -> str:
    """Read and validate every row."""
    from align.data import compared, conversations, schema, text

    readers: dict[Kind, Callable[[Any, schema.Skipped | None], Iterator[Any]]] = {
        "text": lambda p, _: text.read_text([p]),
        "dialogs": schema.read_dialogs,
        "compared": compared.read_records,
        "prompts": schema.read_prompts,
        "constraints": schema.read_constraints,
        "preprompts": schema.read_preprompts,
        "rollouts": schema.read_rollouts,
        "conversations": conversations.read_conversations,
    }
    if path.startswith("hf:"):
        return "on the hub, read when the stage runs"
    if kind == "rounds":
        from align.rollout.history import read_round

        names = ", ".join(version.name for version in read_round(Path(path)).versions)
        return f"rollouts of {names}"
    if kind == "foreign":
        if not Path(path).is_file():
            beside = [p.name for p in Path(path).parent.glob("*")]
            raise DataError(f"{path}: no such file{nearest(Path(path).name, beside)}")
        return f"{Path(path).stat().st_size / 2**20:.1f} MiB"
    skipped = schema.Skipped() if skip_bad else None
    rows = sum(1 for _ in readers[kind](path, skipped))
    if not rows:
        raise DataError(f"{path}: found no rows, expected at least one")
    aside = f", {skipped.count:,} bad ones set aside in {path}.bad.jsonl" if skipped and skipped.count else ""
    return f"{rows:,} {'documents' if kind == 'text' else 'rows'}{aside}"


def _model(folder: Path) -> str:
    from align.artifacts import MANIFEST, read_manifest
    from align.errors import ArtifactError
    from align.model.config import read_config

    config = read_config(folder)
    if not (folder / "tokenizer.model").is_file():
        raise ArtifactError(f"{folder}: no tokenizer.model")
    maker = f"artifact of {read_manifest(folder).stage}" if (folder / MANIFEST).is_file() else "model folder"
    return f"{maker}, {config.parameters():,} parameters"
