"""Pairs that share their prompt's computation, beside the plain way: one answer a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.trees import ROW, pairs
from align.errors import DataError
from align.model.heads import Scorer
from align.records import PairBatch, Row
from tests.model.peers import randomise, tiny

SCORER = Scorer(tiny(max_seq_len=128))
randomise(SCORER)


def row(tokens: list[int]) -> Row:
    return Row(np.array(tokens, dtype=np.int32), np.arange(len(tokens)) > 0)


def made(drawn: list[tuple[list[int], list[int], list[int]]]) -> list[tuple[Row, Row]]:
    """Pairs of a prompt and two answers, either of which may begin like the other."""
    return [(row([1, *prompt, *first, 2]), row([1, *prompt, *second, 2])) for prompt, first, second in drawn]


def batched(rows: list[tuple[Row, Row]], length: int) -> PairBatch:
    n = len(rows)
    return pairs(rows, [float(i) for i in range(n)], [i % 4 for i in range(n)], [(1, 0)] * n, length)


TOKENS = st.lists(st.integers(3, 8), max_size=9)  # few, so that answers often begin alike
PAIRS = st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(drawn=PAIRS, length=st.sampled_from([20, 33, 128]))
def test_tree_rows_equal_plain_rows(drawn: list[tuple[list[int], list[int], list[int]]], length: int) -> None:
    """Scores and gradients, also where some trees do not fit a row and stand as two documents."""
    rows = made(drawn)
    batch = batched(rows, length)
    assert batch.batch.tokens.shape[1] <= ROW * length
    weights = torch.linspace(-1, 1, 2 * len(rows))
    laid = batch.batch
    packed = SCORER(laid.tokens, laid.positions, laid.segments, at=batch.ends, stems=laid.stems)
    (packed * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in SCORER.named_parameters() if p.grad is not None}
    SCORER.zero_grad()
    documents = [chosen for chosen, _ in rows] + [rejected for _, rejected in rows]
    plain = torch.cat([SCORER(torch.from_numpy(d.tokens.astype(np.int64))[None])[:, -1] for d in documents])
    (plain * weights).sum().backward()
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    for name, parameter in SCORER.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
    SCORER.zero_grad()


@settings(max_examples=100, deadline=None)
@given(drawn=PAIRS, length=st.sampled_from([20, 33, 128]))
def test_every_token_stands_once_and_counts_once(
    drawn: list[tuple[list[int], list[int], list[int]]], length: int
) -> None:
    rows = made(drawn)
    batch = batched(rows, length)
    n = len(rows)
    ends = batch.batch.tokens.flatten()[batch.ends].tolist()
    assert ends == [2] * 2 * n, "each answer ends with its own end of text"
    assert len(set(batch.ends.tolist())) == 2 * n
    assert batch.batch.segments is not None
    assert batch.batch.stems is not None
    plain = sum(len(d.tokens) for pair in rows for d in pair)
    assert int((batch.batch.segments > 0).sum()) <= plain
    assert not bool((batch.batch.stems[batch.batch.segments == 0] >= 0).any()), "padding goes on from nothing"
    assert batch.margin.tolist() == [float(i) for i in range(n)]
    assert batch.rating.tolist() == [i % 4 for i in range(n)]
    assert batch.safe.tolist() == [1] * n + [0] * n


def test_a_tree_by_hand() -> None:
    batch = batched([(row([1, 5, 6, 7, 2]), row([1, 5, 6, 8, 9, 2]))], 16).batch
    assert batch.tokens.tolist() == [[1, 5, 6, 7, 2, 8, 9, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert batch.segments is not None
    assert batch.stems is not None
    assert batch.segments.tolist() == [[1, 1, 1, 2, 2, 3, 3, 3]]
    assert batch.stems.tolist() == [[-1, -1, -1, 1, 1, 1, 1, 1]]


def test_an_answer_longer_than_a_row_is_refused() -> None:
    with pytest.raises(DataError, match="found 12 tokens, expected 1 to 9"):
        batched([(row(list(range(1, 13))), row([1, 2, 2]))], 9)
