"""Micro-batches of an update: every row once an epoch, whatever the ranks and the size of a forward pass."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.config import parse
from align.data.batches import BatchConfig, packed_batches, pair_batches, predictors
from align.data.preference import PairRow
from align.errors import DataError
from align.records import Batch, Row


def config(rows: int, micro: int, length: int = 64, epochs: float = 1.0) -> BatchConfig:
    return parse(BatchConfig, {"rows": rows, "micro_rows": micro, "length": length, "epochs": epochs}, "batch")


def document(number: int, size: int) -> Row:
    """Tokens that name their document."""
    return Row(np.full(size, number + 1, dtype=np.int32), np.arange(size) > 0)


def seen(batches: list[Batch]) -> Counter[tuple[int, int]]:
    """(document, its tokens) as they stand in the batches."""
    found: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        whole = (batch.tokens > 0).long() if batch.segments is None else batch.segments
        for tokens, segments in zip(batch.tokens, whole, strict=True):
            for segment in range(1, int(segments.max()) + 1):
                part = tokens[segments == segment]
                assert len(part.unique()) == 1
                found[int(part[0]), len(part)] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 64), min_size=1, max_size=40),
    rows=st.integers(1, 5),
    micro=st.integers(1, 4),
    world=st.integers(1, 3),
)
def test_every_document_once_whatever_the_ranks(sizes: list[int], rows: int, micro: int, world: int) -> None:
    documents = [document(number, size) for number, size in enumerate(sizes)]

    def everything(micro: int, world: int, steps: int) -> list[Counter[tuple[int, int]]]:
        ranks = [packed_batches(documents, config(rows, micro), seed=3, rank=r, world=world) for r in range(world)]
        return [seen([batch for rank in ranks for batch in rank(step)]) for step in range(steps)]

    alone = everything(rows, 1, 3)
    assert everything(micro, world, 3) == alone, "the same documents in the same update"
    one = packed_batches(documents, config(1, 1), seed=3, rank=0, world=1)
    whole = sum((seen(one(step)) for step in range(one.steps)), Counter())
    assert whole == Counter({(number + 1, size): 1 for number, size in enumerate(sizes)})


def test_steps() -> None:
    documents = [document(number, 60) for number in range(10)]
    assert packed_batches(documents, config(4, 4), seed=0, rank=0, world=1).steps == 2
    assert packed_batches(documents, config(4, 4, epochs=2), seed=0, rank=0, world=1).steps == 5
    assert packed_batches(documents, config(99, 4), seed=0, rank=0, world=1).steps == 1


def test_pairs_once_an_epoch() -> None:
    rows = [document(number, 3 + number % 5) for number in range(24)]
    pairs = [PairRow(rows[i], rows[i + 12], 0.5, i % 4, (1, 0)) for i in range(12)]
    for world in (1, 2, 3):
        ranks = [pair_batches(pairs, config(6, 2), seed=1, rank=rank, world=world) for rank in range(world)]
        micros = [micro for step in range(2) for rank in ranks for micro in rank(step)]
        ends = [micro.batch.tokens.flatten()[micro.ends].tolist() for micro in micros]
        chosen = [token for half in ends for token in half[: len(half) // 2]]
        rejected = [token for half in ends for token in half[len(half) // 2 :]]
        assert sorted(chosen) == list(range(1, 13))
        assert [r - c for c, r in zip(chosen, rejected, strict=True)] == [12] * 12


def test_predictors_by_hand() -> None:
    mask = torch.tensor([[False, True, False, True], [False, False, False, True]])
    assert predictors(mask).tolist() == [0, 2, 6]
    with pytest.raises(AssertionError, match="nothing predicts it"):
        predictors(torch.tensor([[True, False]]))


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        packed_batches([], config(1, 1), seed=0, rank=0, world=1)
    with pytest.raises(DataError, match="no preference pairs"):
        pair_batches([], config(1, 1), seed=0, rank=0, world=1)


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(2, 64), min_size=1, max_size=40), seed=st.integers(0, 3), micro=st.integers(1, 3))
def test_every_document_once_in_every_epoch(sizes: list[int], seed: int, micro: int) -> None:
    """Every document once in the first epoch and once in the second, in rows that are no wider than they need."""
    documents = [document(number, size) for number, size in enumerate(sizes)]
    made = packed_batches(documents, config(1, micro, epochs=2), seed=seed, rank=0, world=1)
    steps = [made(step) for step in range(made.steps)]
    half = made.steps // 2
    expected = Counter({(number + 1, size): 1 for number, size in enumerate(sizes)})
    for epoch in (steps[:half], steps[half:]):
        assert sum((seen(step) for step in epoch), Counter()) == expected
    for batch in (batch for step in steps for batch in step):
        real = [int((line > 0).sum()) for line in batch.tokens]
        assert len(real) <= micro
        assert batch.tokens.shape[1] == max(real) <= 64, "no wider than its fullest row"
        assert min(real) > 0
    assert made.steps % 2 == 0
