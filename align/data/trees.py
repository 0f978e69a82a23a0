"""Pairs of answers -> packed rows in which the tokens that both begin with stand once.

A causal model computes the same of a shared beginning whatever follows it. So a pair is a small tree: its stem (the
prompt, and as much of the answers as is alike) and two branches, which see the stem and not each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.data.pack import level
from align.errors import DataError
from align.records import Batch, PairBatch, Row

ROW = 4  # lengths that a row may hold: two trees seldom fit one, and half a row would be padding


@dataclass(frozen=True, slots=True)
class _Item:
    """Tokens that have to stand in one row: a pair's tree, or one answer with its prompt."""

    tokens: NDArray[np.int32]
    mask: NDArray[np.bool_]
    positions: NDArray[np.int64]
    branch: NDArray[np.int64]  # 0 the stem, 1 and 2 the branches
    ends: tuple[tuple[int, int], ...]  # (document, offset of its last token)


def pairs(
    rows: Sequence[tuple[Row, Row]],
    margins: Sequence[float],
    ratings: Sequence[int],
    safes: Sequence[tuple[int, int]],
    length: int,
) -> PairBatch:
    """P pairs as one batch of packed rows.

    Args:
        rows: (chosen, rejected) of each pair.
        margins: logits.
        ratings: indices into RATINGS.
        safes: (chosen, rejected), 1 safe, 0 unsafe, -1 not labelled.
        length: tokens of a row at most; a pair whose tree is longer stands as two documents.
    """
    import torch

    assert len(rows) == len(margins) == len(ratings) == len(safes) > 0
    items = [item for pair in range(len(rows)) for item in _items(pair, len(rows), *rows[pair], length)]
    packs = level([len(item.tokens) for item in items], ROW * length)
    shape = (len(packs), max(sum(len(items[index].tokens) for index in pack) for pack in packs))
    tokens, positions, segments = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    stems = np.full(shape, -1, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.bool_)
    ends = np.zeros(2 * len(rows), dtype=np.int64)
    for line, pack in enumerate(packs):
        start = 0
        for number, index in enumerate(pack):
            item = items[index]
            place = np.s_[line, start : start + len(item.tokens)]
            stem = 3 * number + 1
            tokens[place], mask[place], positions[place] = item.tokens, item.mask, item.positions
            segments[place] = stem + item.branch
            stems[place] = np.where(item.branch > 0, stem, -1)
            for document, offset in item.ends:
                ends[document] = line * shape[1] + start + offset
            start += len(item.tokens)
    return PairBatch(
        batch=Batch(*(torch.from_numpy(array) for array in (tokens, mask, positions, segments, stems))),
        ends=torch.from_numpy(ends),
        margin=torch.tensor(margins, dtype=torch.float32),
        rating=torch.tensor(ratings, dtype=torch.int64),
        safe=torch.tensor([c for c, _ in safes] + [r for _, r in safes], dtype=torch.int64),
    )


def _items(pair: int, count: int, chosen: Row, rejected: Row, length: int) -> list[_Item]:
    """One tree, or two documents where the tree does not fit a row."""
    stem = _alike(chosen.tokens, rejected.tokens)
    sizes = len(chosen.tokens), len(rejected.tokens)
    for size in sizes:
        if size > length:
            raise DataError(f"pair {pair}: found {size} tokens, expected 1 to {length}")
    if sum(sizes) - stem > length:
        return [
            _Item(row.tokens, row.mask, np.arange(size), np.zeros(size, dtype=np.int64), ((document, size - 1),))
            for row, size, document in ((chosen, sizes[0], pair), (rejected, sizes[1], count + pair))
        ]
    branches = np.repeat(np.arange(3), (stem, sizes[0] - stem, sizes[1] - stem))
    return [
        _Item(
            np.concatenate((chosen.tokens, rejected.tokens[stem:])),
            np.concatenate((chosen.mask, rejected.mask[stem:])),
            np.concatenate((np.arange(sizes[0]), np.arange(stem, sizes[1]))),
            branches,
            ((pair, sizes[0] - 1), (count + pair, sum(sizes) - stem - 1)),
        )
    ]


def _alike(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """How many tokens both begin with; each keeps at least its last one to itself."""
    size = min(len(first), len(second)) - 1
    unlike = np.flatnonzero(first[:size] != second[:size])
    return int(unlike[0]) if len(unlike) else size
