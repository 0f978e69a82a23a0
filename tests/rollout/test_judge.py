"""Two reward models on answers that share prompts: the scores are those of each answer alone."""

from __future__ import annotations

import pytest
import torch

from align.rollout.judge import RewardModels, score_answers
from tests.fakes import tiny_scorer

PROMPTS = [(1, 5, 6, 7)] * 3 + [(1, 8)] * 2 + [(1,)] * 2
ANSWERS = [(9, 2), (4, 4, 2), (9, 2), (3, 2), (8, 9, 10, 2), (3,), (4, 2)]


@pytest.mark.parametrize("batch_tokens", [1, 12, 8192])
def test_scores_are_those_of_each_answer_alone(batch_tokens: int) -> None:
    scorer = tiny_scorer()
    alone = [float(scorer(torch.tensor([[*p, *a]]))[0, -1]) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert score_answers(scorer, PROMPTS, ANSWERS, batch_tokens) == pytest.approx(alone, abs=1e-5)


def test_a_model_that_is_both_reads_an_answer_once_and_a_shared_prompt_too() -> None:
    scorer, read = tiny_scorer(), 0

    def count(_: object, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal read
        read += given[0].numel()

    scorer.register_forward_pre_hook(count)
    scores = RewardModels(scorer, scorer, 0.15).score(PROMPTS[:3], ANSWERS[:3], [False] * 3)
    assert read == 3 + (1 + 2) + (1 + 3)  # the prompt but its last token; twice that token and an answer
    assert scores.helpful.tolist() == scores.safety.tolist()
