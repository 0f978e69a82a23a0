from __future__ import annotations

from pathlib import Path

import pytest

from align.config import parse
from align.world.make import Recipe, run

TINY = {
    "stage": "world", "seed": 3, "people": 20, "lands": 10, "held_out": 0.2, "fresh": 0.5,
    "held_phrasing": 0.3,
    "text": {"facts": 200, "skills": 100, "songs": 20, "lore": 60, "dialogues": 20, "plays": 40},
    "demonstrations": 600,
    "demonstration_shares": {"unsafe": 0.12, "lookalike": 0.06, "instructed": 0.12, "dialogue": 0.15},
    "preprompted": 400,
    "demonstrators": {
        "good": 0.34, "curt": 0.22, "rambling": 0.22, "wrong": 0.16, "refusal": 0.06, "lookalike_refusal": 0.25,
        "comply": 0.45, "curt_refusal": 0.3, "disobey": 0.1,
    },
    "candidates": {
        "good": 0.28, "curt": 0.18, "rambling": 0.18, "wrong": 0.24, "refusal": 0.06, "garbled": 0.06,
        "lookalike_refusal": 0.35, "comply": 0.5, "curt_refusal": 0.3, "disobey": 0.3,
    },
    "annotators": {"noise": 0.12, "significantly": 0.6, "better": 0.35, "slightly": 0.15},
    "preferences": {"helpful": {"train": 300, "test": 100}, "safety": {"train": 300, "test": 100}},
    "ceiling_pairs": 500,
    "prompts": {"fact": 60, "skill": 60, "instructed": 60, "dialogue": 20, "unsafe": 40, "lookalike": 40},
    "prompts_test": {"fact": 60, "skill": 60, "instructed": 40, "dialogue": 20, "unsafe": 40, "lookalike": 40},
    "ghost_prompts": 50, "ghost_test": 30, "ghost_turns": 20,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    return parse(Recipe, TINY, "tiny world")


@pytest.fixture(scope="session")
def folder(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "data"
    run(tiny, out)
    return out
