"""Rounds of rejection sampling on random models: run whole, with an eye on what is asked of the samplers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.artifacts import read_manifest, work_dir
from align.config import parse
from align.data.schema import messages_of, read_dialogs, read_rollouts
from align.data.template import encode_prompt
from align.data.tokenizer import Tokenizer
from align.records import Request
from align.stages import rejection
from align.stages.rejection import Recipe

Rows = list[dict[str, Any]]


def recipe(**changes: Any) -> Recipe:
    values = {
        "stage": "rejection", "policies": ["a"], "helpful": "h", "safety": "s", "threshold": 0.15, "prompts": "p.jsonl",
        "samples": 2, "temperature": {"grid": [0.7, 1.0], "prompts": 3, "samples": 4}, "max_new_tokens": 8,
    }  # fmt: skip
    given = {key: value for key, value in (values | changes).items() if value is not None}
    return parse(Recipe, given, "reject.yaml")


def only(temperature: float, samples: int) -> dict[str, Any]:
    return {"grid": [temperature], "prompts": 1, "samples": samples}


class Runner:
    """Runs rounds and remembers what was asked of the samplers."""

    def __init__(self, models: Path, home: Path, asked: list[tuple[str, Request]]) -> None:
        self.models, self.home, self.asked = models, home, asked

    def __call__(self, name: str, policies: Sequence[str], prompts: str | None, **changes: Any) -> tuple[Rows, Rows]:
        """Rollouts and best rows of a round."""
        self.asked.clear()
        out = self.home / name
        work_dir(out).mkdir(parents=True)
        values = {
            "policies": [str(self.models / policy) for policy in policies], "samples": 3,
            "helpful": str(self.models / "helpful"), "safety": str(self.models / "safety"),
            "prompts": prompts and str(self.home / prompts), "max_new_tokens": 24,
            "temperature": {"grid": [0.5], "prompts": 1, "samples": 3},
        }  # fmt: skip
        rejection.run(recipe(**(values | changes)), out)
        rows = list(read_rollouts(out / "rollouts.jsonl"))
        list(read_rollouts(out / "probes.jsonl"))
        list(read_dialogs(out / "best.jsonl"))
        return rows, [json.loads(line) for line in (out / "best.jsonl").read_text().splitlines()]

    def metrics(self, name: str) -> dict[str, Any]:
        return read_manifest(self.home / name, verify=True).metrics


def told(rows: Rows) -> Counter[tuple[str, str]]:
    return Counter((row["prompt_id"], row["policy_sha256"]) for row in rows)


def drawn(rows: Rows, policy: str) -> dict[tuple[str, int], tuple[list[int], float]]:
    return {(r["prompt_id"], r["sample"]): (r["tokens"], r["logprob"]) for r in rows if r["policy_sha256"] == policy}


def prompt_tokens(models: Path, row: dict[str, Any]) -> list[int]:
    return encode_prompt(Tokenizer(models / "tokenizer.model"), messages_of(row["prompt"]))
