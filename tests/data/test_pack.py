"""Packing and padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.pack import bins, collate, level, pack, pad
from align.errors import DataError
from align.records import Row


def row(size: int, first: int = 1) -> Row:
    return Row(np.arange(first, first + size, dtype=np.int32), np.arange(size) > 0)


def slow_best_fit(sizes: list[int], length: int) -> list[int]:
    """Room left in each bin by the textbook definition of best-fit decreasing."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= size
        else:
            rooms.append(length - size)
    return sorted(rooms)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 64))
def test_best_fit_decreasing(sizes: list[int], length: int) -> None:
    rows = [row(size) for size in sizes]
    packs = pack(rows, length)
    assert sorted(id(r) for p in packs for r in p) == sorted(map(id, rows)), "each document once"
    rooms = [length - sum(len(r.tokens) for r in p) for p in packs]
    assert sorted(rooms) == slow_best_fit(sizes, length)
    assert packs == pack(rows, length)


def test_packing_is_quick_and_tight() -> None:
    sizes = np.random.default_rng(0).integers(10, 500, 50_000)
    packs = pack([row(int(size)) for size in sizes], 4096)
    assert len(packs) <= 1.001 * sizes.sum() / 4096 + 1


def area(sizes: list[int], rows: list[list[int]]) -> int:
    return len(rows) * max(sum(sizes[index] for index in row) for row in rows)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(40, 64))
def test_level_rows_hold_each_item_once_and_waste_no_more_than_best_fit(sizes: list[int], length: int) -> None:
    rows = level(sizes, length)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(0 < sum(sizes[index] for index in row) <= length for row in rows)
    assert area(sizes, rows) <= area(sizes, bins(sizes, length))


def test_level_rows_are_level() -> None:
    assert sorted(sorted(row) for row in level([5, 4, 3, 3, 3], 10)) == [[0, 1], [2, 3, 4]]
    sizes = np.random.default_rng(0).integers(10, 300, 64).tolist()
    assert area(sizes, level(sizes, 1024)) <= 1.02 * sum(sizes)


def test_collate_by_hand() -> None:
    batch = collate([[row(2, 5), row(3, 7)], [row(4, 20)]], 8)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9], [20, 21, 22, 23, 0]]
    assert batch.mask.tolist() == [[False, True, False, True, True], [False, True, True, True, False]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert batch.segments.tolist() == [[1, 1, 2, 2, 2], [1, 1, 1, 1, 0]]


def test_pad_rounds_up() -> None:
    batch = pad([row(3), row(5)], multiple=4)
    assert batch.tokens.shape == (2, 8)
    assert batch.segments is None
    assert not batch.mask[:, 5:].any()
    assert pad([row(3), row(5)]).tokens.shape == (2, 5)


@pytest.mark.parametrize("size", [0, 9])
def test_wrong_lengths(size: int) -> None:
    with pytest.raises(DataError, match=f"row 1: found {size} tokens, expected 1 to 8"):
        pack([row(3), row(size)], 8)
    with pytest.raises(DataError, match=f"pack 0: found {size} tokens"):
        collate([[row(size)] if size else []], 8)


def test_a_counted_first_token_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="nothing predicts it"):
        collate([[Row(np.ones(2, np.int32), np.ones(2, np.bool_))]], 8)
