"""Rows -> batches: many documents in one row that do not see each other, or one document a row."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from align.errors import DataError
from align.records import Batch, Row

NARROW = 128  # tokens of a row where all that it holds is shorter: attention costs a row's length squared


def bins(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Indices of items in as few bins of at most ``length`` as best-fit decreasing finds.

    Each item, longest first, goes where it leaves the least room. Ties keep the given order.

    Args:
        sizes: of the items.
        length: of a bin at most.

    Raises:
        DataError: an item larger than ``length``, or empty.
    """
    for index, size in enumerate(sizes):
        if not 0 < size <= length:
            raise DataError(f"row {index}: found {size} tokens, expected 1 to {length}")
    filled: list[list[int]] = []
    open_at: list[list[int]] = [[] for _ in range(length + 1)]  # bins by the room they have left
    # bit r is set where a bin has r tokens of room: two operations on a big integer find the least r >= size
    rooms = 0
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[index]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            number = open_at[room].pop()
            if not open_at[room]:
                rooms ^= 1 << room
            filled[number].append(index)
        else:
            room, number = length, len(filled)
            filled.append([index])
        open_at[room - size].append(number)
        rooms |= 1 << (room - size)
    return filled


def level(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Indices of items in rows of at most ``length``, all nearly as full as the fullest: little of a batch is padding.

    For each number of rows, from the least that could do, items are dealt longest first to the emptiest row; the
    batch of the smallest area is taken.

    Raises:
        DataError: see :func:`bins`.
    """
    best = bins(sizes, length)
    area = len(best) * max(sum(sizes[index] for index in row) for row in best)
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    for count in range(-(-sum(sizes) // length), len(best) + 2):
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, row) for row in range(count)]  # a heap
        for index in order:
            size, row = filled[0]
            heapq.heapreplace(filled, (size + sizes[index], row))
            rows[row].append(index)
        width = max(size for size, _ in filled)
        if width <= length and count * width < area:
            best, area = [row for row in rows if row], count * width
    return best


def pack(rows: Sequence[Row], length: int) -> list[list[Row]]:
    """Documents into as few packs of at most ``length`` tokens as :func:`bins` finds."""
    return [[rows[index] for index in chosen] for chosen in bins([len(row.tokens) for row in rows], length)]


def collate(packs: Sequence[Sequence[Row]], length: int) -> Batch:
    """Packs of documents as one batch, as wide as its fullest pack.

    Args:
        packs: B lists of documents.
        length: tokens that no pack may exceed.

    Returns:
        Batch [B, T]: padding has token 0, mask False, position 0 and segment 0; documents are 1, 2, ….

    Raises:
        DataError: a pack is longer than ``length`` or empty.
    """
    import torch

    sizes = [sum(len(row.tokens) for row in rows) for rows in packs]
    for index, size in enumerate(sizes):
        if not 0 < size <= length:
            raise DataError(f"pack {index}: found {size} tokens, expected 1 to {length}")
    shape = (len(packs), max(sizes, default=0))
    tokens, positions, segments = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    mask = np.zeros(shape, dtype=np.bool_)
    for line, rows in enumerate(packs):
        start = 0
        for number, row in enumerate(rows, 1):
            assert not row.mask[0], "a document's first token cannot count: nothing predicts it"
            stop = start + len(row.tokens)
            tokens[line, start:stop] = row.tokens
            mask[line, start:stop] = row.mask
            positions[line, start:stop] = np.arange(stop - start)
            segments[line, start:stop] = number
            start = stop
    return Batch(*(torch.from_numpy(array) for array in (tokens, mask, positions, segments)))


def pad(rows: Sequence[Row], multiple: int = 1) -> Batch:
    """One document a row, padded on the right to the longest, rounded up to a ``multiple``.

    Its ``segments`` are None: plain causal attention, which builds no mask and skips what lies ahead. Padding on the
    right is seen by no token that counts.
    """
    batch = collate([[row] for row in rows], max(len(row.tokens) for row in rows))
    extra = -batch.tokens.shape[1] % multiple
    tokens, mask, positions = batch.tokens, batch.mask, batch.positions
    if extra:
        from torch.nn.functional import pad as widen

        tokens, mask, positions = (widen(part, (0, extra)) for part in (tokens, mask, positions))
    return Batch(tokens, mask, positions, None)
