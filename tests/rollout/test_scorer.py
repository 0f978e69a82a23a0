"""Scores of many rows are those of each row alone."""

from __future__ import annotations

import pytest
import torch

from align.errors import DataError
from align.rollout.scorer import length_batches, score_rows
from tests.fakes import tiny_scorer
from tests.rollout.test_local import prompts


@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_scores_are_those_of_each_row_alone(batch_tokens: int) -> None:
    scorer, rows = tiny_scorer(), prompts(40, longest=60, seed=3)
    alone = [float(scorer(torch.tensor([row]))[0, -1]) for row in rows]
    assert score_rows(scorer, rows, batch_tokens) == pytest.approx(alone, abs=1e-5)
    assert score_rows(scorer, rows[::-1], batch_tokens) == pytest.approx(alone[::-1], abs=1e-5)


def test_rows_that_are_alike_are_read_once() -> None:
    scorer, rows = tiny_scorer(), [[1, 2, 3], [4, 5], [1, 2], [6], [7, 8], [2, 1]]
    once = score_rows(scorer, rows)
    read: list[int] = []
    scorer.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    assert score_rows(scorer, [*rows, *rows[::-1]]) == once + once[::-1]
    assert sum(read) == 6


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = [5, 90, 1, 30, 30, 7, 200]
    parts = list(length_batches(lengths, 64))
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or max(lengths[i] for i in part) * len(part) <= 64 for part in parts)
    assert parts[:3] == [[6], [1], [3, 4]]


def test_an_empty_row_is_refused() -> None:
    with pytest.raises(DataError, match="row 1: found no tokens"):
        score_rows(tiny_scorer(), [[1, 2], []])


def test_no_rows_no_scores() -> None:
    assert score_rows(tiny_scorer(), []) == []
