"""Looks at held-out pairs by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from align.data.compared import ComparedRow
from align.data.trees import collate
from align.engine.watch import curve, look
from align.records import PairBatch, Row


class Judge:
    """Scores an answer by its last token."""

    device = torch.device("cpu")

    def __call__(self, tokens: torch.Tensor, *_: Any, at: torch.Tensor, **__: Any) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return tokens.flatten()[at].float()


def batch(*elements: tuple[tuple[int, ...], tuple[tuple[int, int], ...]]) -> PairBatch:
    """Answers told by the score they are to have, and their (chosen, rejected)."""
    rows = []
    for scores, pairs in elements:
        answers = tuple(Row(np.array([1, 9, s], dtype=np.int32), np.arange(3) > 1) for s in scores)
        margins = (3.0,) * len(pairs)  # a margin of training has no say here
        rows.append(ComparedRow(answers, pairs, margins, (0,) * len(pairs), (-1,) * len(scores)))
    return collate(rows, 64)


def test_a_look_is_over_pairs_whatever_batch_they_are_in() -> None:
    """Gaps 2, -1 and 0 of one prompt, 1 of another: 2.5 of 4 right."""
    told = look(Judge(), [batch(((5, 3, 4, 3), ((0, 1), (1, 2), (1, 3)))), batch(((7, 6), ((0, 1),)))])  # type: ignore[arg-type]
    assert told["accuracy"] == 2.5 / 4
    expected = sum(math.log1p(math.exp(-gap)) for gap in (2, -1, 0, 1)) / 4
    assert told["loss"] == pytest.approx(expected, rel=1e-6)


def test_who_knows_nothing_has_a_half_and_log_two() -> None:
    told = look(Judge(), [batch(((5, 5), ((0, 1),)))])  # type: ignore[arg-type]
    assert told == {"accuracy": 0.5, "loss": pytest.approx(math.log(2))}


def test_a_point_a_look() -> None:
    logged = [{"step": i, "loss": float(i), "accuracy": i / 10, "lr": 1.0} for i in range(5)]
    logged[1] |= {"held_out/a/b/accuracy": 0.75, "held_out/a/b/loss": 0.5}
    logged[4] |= {"held_out/a/b/accuracy": 0.5, "held_out/a/b/loss": 0.625, "held_out/c/accuracy": 1.0}
    assert curve(logged, 0.25) == [
        {
            "epoch": 0.5,
            "train": {"loss": 0.5, "accuracy": 0.05},
            "held_out": {"a/b": {"accuracy": 0.75, "loss": 0.5}},
        },
        {
            "epoch": 1.25,
            "train": {"loss": 3.0, "accuracy": pytest.approx(0.3)},
            "held_out": {"a/b": {"accuracy": 0.5, "loss": 0.625}, "c": {"accuracy": 1.0}},
        },
    ]
    assert curve(logged[:1], 0.25) == []
