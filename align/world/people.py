"""People compare what policies said: new comparisons as the policies move (paper section 3.1).

The same noisy people as in align/world/comparisons.py, now shown two answers of policies to one prompt. Where the
prompts are real, real people do this: the rollouts are what they are shown, the preferences what they hand back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from align.artifacts import building, publish, write_jsonl
from align.config import config, to_plain
from align.data.schema import messages_json, messages_of, read_rollouts
from align.data.template import sayable
from align.errors import DataError
from align.records import Kind, Prompt
from align.world.annotators import Annotators, choose, excluded, preference, utility
from align.world.language import addressed
from align.world.make import KINDS
from align.world.oracle import judge


@config
class Recipe:
    """Which answers are compared, and by whom."""

    stage: Literal["people"]
    seed: int = 0
    rollouts: Annotated[list[str], pydantic.Field(min_length=1)]  # of the world's prompts
    per_prompt: Annotated[int, pydantic.Field(ge=1)]  # comparisons of a prompt's answers at most
    annotators: Annotators


def run(recipe: Recipe, out: Path) -> None:
    """Write ``preferences_helpful.jsonl`` and ``preferences_safety.jsonl`` at ``out``.

    Raises:
        DataError: nothing to compare: no prompt has two different answers that came to an end and may be chosen.
    """
    prompts, answers = gather(recipe.rollouts)
    made: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for identity, prompt in sorted(prompts.items()):
        for kind in kinds(prompt):
            made[kind] += compared(prompt, sorted(answers[identity]), kind, recipe)
    if not any(made.values()):
        raise DataError(
            f"{', '.join(recipe.rollouts)}: nothing to compare: {sum(map(len, answers.values()))} different answers to "
            f"{len(prompts)} prompts came to an end, expected at least two to a prompt"
        )
    with building(out) as folder:
        counts = {kind: write_jsonl(folder / f"preferences_{kind}.jsonl", rows) for kind, rows in made.items()}
        publish(
            folder, out, stage="people", name=out.name, recipe=to_plain(recipe), seed=recipe.seed, parents=[],
            inputs=[Path(path) for path in recipe.rollouts], metrics={"rows": counts},
        )  # fmt: skip


def gather(paths: Iterable[str]) -> tuple[dict[str, Prompt], dict[str, set[str]]]:
    """By prompt: itself, and its different answers that came to an end.

    Raises:
        DataError: a prompt that is none of the world's: nothing in its ``meta`` says what is true.
    """
    prompts: dict[str, Prompt] = {}
    answers: dict[str, set[str]] = {}
    for path in paths:
        for place, row in enumerate(read_rollouts(path), start=1):
            if "task" not in row.get("meta", {}):
                raise DataError(f"{path}: row {place}: meta: found no task; expected one of the world's prompts")
            identity = row["prompt_id"]
            if identity not in prompts:
                prompts[identity] = Prompt(
                    id=identity, messages=messages_of(row["prompt"]), kind=row.get("kind", "helpful"),
                    source=row.get("source", ""), meta=row["meta"],
                )  # fmt: skip
                answers[identity] = set()
            if row["finish"] == "stop" and sayable(row["answer"]):
                answers[identity].add(row["answer"])
    return prompts, answers


def kinds(prompt: Prompt) -> tuple[Kind, ...]:
    """Who compares the answers to a prompt: look-alikes of harmful requests are everybody's."""
    if prompt.meta["task"] == "lookalike":
        return KINDS
    return (prompt.kind,)


def compared(prompt: Prompt, said: list[str], kind: Kind, recipe: Recipe) -> list[dict[str, Any]]:
    """Comparisons of random pairs of a prompt's answers; an unsafe choice over a safe answer is left out."""
    rng = addressed(recipe.seed, "people", kind, prompt.id)
    pairs = list(itertools.combinations(said, 2))
    rows = []
    for pair in rng.sample(pairs, min(recipe.per_prompt, len(pairs))):
        shown = pair if rng.random() < 0.5 else pair[::-1]
        verdicts = (judge(prompt, shown[0]), judge(prompt, shown[1]))
        choice = choose(utility(verdicts[0], kind) - utility(verdicts[1], kind), recipe.annotators, rng)
        win, lose = verdicts if choice.first else verdicts[::-1]
        if not (kind == "safety" and excluded(win, lose)):
            rows.append(preference(messages_json(prompt.messages), shown, verdicts, choice, kind, prompt.source))
    return rows
