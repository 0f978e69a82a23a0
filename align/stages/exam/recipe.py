"""What an examination is told: who sits it, and which exams, each as its own file says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from align.config import config
from align.exams.gsm8k import GSM8KConfig
from align.exams.humaneval import HumanEvalConfig
from align.exams.truthfulqa import TruthfulQAConfig
from align.exams.winogender import WinogenderConfig

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class Recipe:
    """Sit exams; one that is not there is not taken."""

    stage: Literal["exam"]
    seed: int = 0
    policies: dict[str, str]  # name in the table -> artifact, or any LLaMA folder with its tokenizer.model
    truthfulqa: TruthfulQAConfig | None = None
    winogender: WinogenderConfig | None = None
    gsm8k: GSM8KConfig | None = None
    humaneval: HumanEvalConfig | None = None
    overlong: Literal["error", "skip"] = "error"  # a question longer than the context; skips are counted
    slots: Count = 64  # answers under way at once
    batch_tokens: Count = 16384  # of a forward pass that scores options

    def __post_init__(self) -> None:
        """Refuse a recipe without policies or exams."""
        if not self.policies:
            raise ValueError("policies: found none, expected at least one")
        if not any((self.truthfulqa, self.winogender, self.gsm8k, self.humaneval)):
            raise ValueError("found no exam, expected truthfulqa, winogender, gsm8k or humaneval")


def files(recipe: Recipe) -> list[Path]:
    """Every file that the exams read."""
    named = [exam.path for exam in (recipe.truthfulqa, recipe.winogender, recipe.gsm8k, recipe.humaneval) if exam]
    if recipe.winogender and recipe.winogender.occupations:
        named.append(recipe.winogender.occupations)
    if recipe.gsm8k and recipe.gsm8k.shots:
        named.append(recipe.gsm8k.shots.path)
    return [Path(path) for path in named]
