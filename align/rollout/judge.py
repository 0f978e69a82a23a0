"""The two reward models and how the paper joins them: safety where it matters, else helpfulness (section 3.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from align.data.branches import Tokens, ends
from align.losses import combine_rewards
from align.model.config import Dtype
from align.model.heads import Scorer
from align.model.weights import load_scorer
from align.rollout.experience import answer_batch, groups, moved, rows_of


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
            safety: likewise; the same model may be both, and reads an answer once.
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
        helpful = score_answers(self.helpful, prompts, answers)
        safety = helpful if self.safety is self.helpful else score_answers(self.safety, prompts, answers)
        return join(helpful, safety, is_safety_prompt, self.threshold)


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


@torch.inference_mode()
def score_answers(scorer: Scorer, prompts: Tokens, answers: Tokens, batch_tokens: int = 8192) -> list[float]:
    """The score of each answer, read at its last token; answers that are alike are read once.

    Args:
        scorer: a reward model.
        prompts: R prompts.
        answers: R answers.
        batch_tokens: size of a forward pass, tokens.

    Returns:
        R logits.
    """
    alike = {(tuple(p), tuple(a)): row for row, (p, a) in enumerate(zip(prompts, answers, strict=True))}
    device = next(scorer.parameters()).device
    scores = dict.fromkeys(alike.values(), 0.0)
    for packs in groups(prompts, answers, batch_tokens, list(scores)):
        batch, rows = moved(answer_batch(prompts, answers, packs), device), rows_of(packs)
        at = ends(batch.mask, [len(answers[row]) for row in rows])
        read = scorer(batch.tokens, batch.positions, batch.segments, at=at, stems=batch.stems)
        scores |= zip(rows, read.tolist(), strict=True)
    return [scores[alike[tuple(p), tuple(a)]] for p, a in zip(prompts, answers, strict=True)]
