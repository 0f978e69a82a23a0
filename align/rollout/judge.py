"""The two reward models and how the paper joins them: safety where it matters, else helpfulness (section 3.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from align.losses import combine_rewards
from align.model.config import Dtype
from align.model.heads import Scorer
from align.model.weights import load_scorer
from align.rollout.scorer import score_rows


class Scores(NamedTuple):
    """Logits of R answers."""

    helpful: Tensor  # [R]
    safety: Tensor  # [R]
    combined: Tensor  # [R]


class RewardModels:
    """Helpfulness and safety reward models, held open for scoring."""

    def __init__(self, helpful: Path | Scorer, safety: Path | Scorer, threshold: float, dtype: Dtype = "fp32") -> None:
        """Open both.

        Args:
            helpful: a folder, or a model that is open already.
            safety: likewise.
            threshold: a probability: below it the safety score decides.
            dtype: of folders' weights.
        """
        self.helpful, self.safety = (
            load_scorer(model, dtype=dtype) if isinstance(model, Path) else model for model in (helpful, safety)
        )
        self.threshold = threshold

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        is_safety_prompt: Sequence[bool],
    ) -> Scores:
        """Score R answers.

        Args:
            prompts: R encoded prompts.
            answers: R sampled answers, EOS included where reached.
            is_safety_prompt: R flags.
        """
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        return join(score_rows(self.helpful, rows), score_rows(self.safety, rows), is_safety_prompt, self.threshold)


def join(
    helpful: Sequence[float], safety: Sequence[float], is_safety_prompt: Sequence[bool], threshold: float
) -> Scores:
    """Both models' scores of R answers with the one that counts.

    Args:
        helpful: R logits.
        safety: R logits.
        is_safety_prompt: R flags.
        threshold: a probability: below it the safety score decides.
    """
    flags = torch.tensor(list(is_safety_prompt), dtype=torch.bool)
    helps, safe = torch.tensor(list(helpful)), torch.tensor(list(safety))
    return Scores(helps, safe, combine_rewards(helps, safe, flags, threshold))
