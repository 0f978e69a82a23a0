"""Policies and public exams -> a mark in each exam, and what was answered to every question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.config import to_plain
from align.stages.exam.recipe import Recipe, files
from align.stages.exam.sit import headline, taken

__all__ = ["Recipe", "run"]

FORMAT = 1  # of exams.json


def run(recipe: Recipe, out: Path) -> None:
    """Every policy sits every exam of the recipe; marks and answers are published at ``out``."""
    from align.artifacts import building, publish, work_dir, write_json, write_jsonl
    from align.data.tokenizer import Tokenizer
    from align.engine.metrics import Metrics
    from align.model.config import read_config
    from align.model.weights import load_policy
    from align.stages.exam.ask import Candidate

    work = work_dir(out)
    exams = taken(recipe)
    marks: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    with Metrics(work, total=len(recipe.policies), label=out.name) as log:
        for number, (name, path) in enumerate(recipe.policies.items()):
            folder = Path(path)
            candidate = Candidate(
                policy=load_policy(folder).eval().requires_grad_(False),
                tokenizer=Tokenizer(folder / "tokenizer.model"),
                context=read_config(folder).max_seq_len,
                journal=work / f"{number}-{folder.name}",
            )
            marks[name] = {}
            for exam, sit in exams.items():
                marks[name][exam], found = sit(candidate, recipe)
                rows += [{"policy": name, "exam": exam, **row} for row in found]
            log.log(number, {exam: headline(exam, mark) for exam, mark in marks[name].items()})
    with building(out) as made:
        write_json(made / "exams.json", {"format": FORMAT, "policies": marks})
        write_jsonl(made / "answers.jsonl", rows)
        publish(
            made, out, stage="exam", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=[Path(path) for path in dict.fromkeys(recipe.policies.values())], inputs=files(recipe),
            metrics={"exams": marks},
        )  # fmt: skip
