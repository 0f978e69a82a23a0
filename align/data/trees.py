"""Answers to a prompt -> packed rows in which the tokens that they all begin with stand once.

A causal model computes the same of a shared beginning whatever follows it. So a prompt with K answers is a small
tree: its stem (the prompt, and as much of the answers as is alike) and K branches, which see the stem and not each
other. Where a tree is longer than a row, its branches stand on several stems, in the least room: the extreme is an
answer a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.data.compared import ComparedRow
from align.data.pack import bins, level
from align.errors import DataError
from align.records import Batch, PairBatch, Row

ROW = 4  # lengths that a row may hold: two trees seldom fit one, and half a row would be padding


@dataclass(frozen=True, slots=True)
class _Item:
    """Tokens that have to stand in one row: a tree, or one answer with its prompt."""

    tokens: NDArray[np.int32]
    mask: NDArray[np.bool_]
    positions: NDArray[np.int64]
    branch: NDArray[np.int64]  # 0 the stem, 1, 2, … the branches
    ends: tuple[tuple[int, int], ...]  # (answer, offset of its last token)


def pairs(
    rows: Sequence[tuple[Row, Row]],
    margins: Sequence[float],
    ratings: Sequence[int],
    safes: Sequence[tuple[int, int]],
    length: int,
) -> PairBatch:
    """P pairs, each of a prompt of its own, as one batch of packed rows.

    Args:
        rows: (chosen, rejected) of each pair.
        margins: logits.
        ratings: indices into RATINGS.
        safes: (chosen, rejected), 1 safe, 0 unsafe, -1 not labelled.
        length: tokens of a row at most; a pair whose tree is longer stands as two documents.
    """
    told = zip(rows, margins, ratings, safes, strict=True)
    return collate(
        [ComparedRow(both, ((0, 1),), (margin,), (rating,), safe) for both, margin, rating, safe in told], length
    )


def collate(rows: Sequence[ComparedRow], length: int) -> PairBatch:
    """Prompts with the pairs of their answers as one batch of packed rows.

    Args:
        rows: the answers to a prompt each.
        length: tokens of a tree at most; a prompt whose tree is longer stands as several.

    Raises:
        DataError: an answer with its prompt is longer than ``length``.
    """
    import torch

    assert rows
    first = np.cumsum([0, *(len(row.answers) for row in rows)])  # a row's answers are first[row], first[row] + 1, …
    items = [item for row, number in zip(rows, first, strict=False) for item in _items(row.answers, number, length)]
    packs = level([len(item.tokens) for item in items], ROW * length)
    shape = (len(packs), max(sum(len(items[index].tokens) for index in pack) for pack in packs))
    tokens, positions, segments = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    stems = np.full(shape, -1, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.bool_)
    ends = np.zeros(first[-1], dtype=np.int64)
    for line, pack in enumerate(packs):
        start, stem = 0, 1
        for index in pack:
            item = items[index]
            place = np.s_[line, start : start + len(item.tokens)]
            tokens[place], mask[place], positions[place] = item.tokens, item.mask, item.positions
            segments[place] = stem + item.branch
            stems[place] = np.where(item.branch > 0, stem, -1)
            for answer, offset in item.ends:
                ends[answer] = line * shape[1] + start + offset
            start += len(item.tokens)
            stem += int(item.branch.max()) + 1
    told = [(number, row, one) for number, row in enumerate(rows) for one in range(len(row.pairs))]
    halves = [[(number, row.pairs[one][half]) for number, row, one in told] for half in (0, 1)]
    return PairBatch(
        batch=Batch(*(torch.from_numpy(array) for array in (tokens, mask, positions, segments, stems))),
        ends=torch.from_numpy(ends[[first[number] + answer for half in halves for number, answer in half]]),
        margin=torch.tensor([row.margins[one] for _, row, one in told], dtype=torch.float32),
        rating=torch.tensor([row.ratings[one] for _, row, one in told], dtype=torch.int64),
        safe=torch.tensor([rows[number].safe[answer] for half in halves for number, answer in half], dtype=torch.int64),
        prompt=torch.tensor([number for number, _, _ in told], dtype=torch.int64),
        share=torch.tensor([row.share for _, row, _ in told], dtype=torch.float32),
        rows=torch.tensor([row.row for row in rows], dtype=torch.int64),
    )


def _items(answers: Sequence[Row], first: int, length: int) -> Iterator[_Item]:
    """One tree, or several where it does not fit a row; ``first`` is the number of the first answer."""
    sizes = [len(row.tokens) for row in answers]
    if max(sizes) > length:
        raise DataError(f"answer {first + sizes.index(max(sizes))}: found {max(sizes)} tokens, expected 1 to {length}")
    stem = _alike(answers)
    if sum(sizes) - stem * (len(answers) - 1) <= length:
        groups = [list(range(len(answers)))]
    else:
        groups = [sorted(group) for group in bins([size - stem for size in sizes], length - stem)]
    for group in groups:
        yield _tree([answers[i] for i in group], [first + i for i in group])


def _tree(answers: Sequence[Row], numbers: Sequence[int]) -> _Item:
    """Answers that fit one row together; a single one is a document."""
    if len(answers) == 1:
        (row,), size = answers, len(answers[0].tokens)
        return _Item(row.tokens, row.mask, np.arange(size), np.zeros(size, dtype=np.int64), ((numbers[0], size - 1),))
    stem = _alike(answers)
    sizes = [len(row.tokens) - stem for row in answers]
    stops = stem + np.cumsum(sizes)
    return _Item(
        np.concatenate((answers[0].tokens[:stem], *(row.tokens[stem:] for row in answers))),
        np.concatenate((answers[0].mask[:stem], *(row.mask[stem:] for row in answers))),
        np.concatenate((np.arange(stem), *(np.arange(stem, stem + size) for size in sizes))),
        np.repeat(np.arange(len(answers) + 1), (stem, *sizes)),
        tuple((number, int(stop) - 1) for number, stop in zip(numbers, stops, strict=True)),
    )


def _alike(answers: Sequence[Row]) -> int:
    """How many tokens all begin with; each keeps at least its last one to itself."""
    size = min(len(row.tokens) for row in answers) - 1
    first = answers[0].tokens[:size]
    for row in answers[1:]:
        unlike = np.flatnonzero(first != row.tokens[: len(first)])
        first = first[: unlike[0]] if len(unlike) else first
    return len(first)
