"""Rows -> batches: many documents in one row that do not see each other, or one document a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from align.errors import DataError
from align.records import Batch, PairBatch, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pack(rows: Sequence[Row], length: int) -> list[list[Row]]:
    """Documents into as few packs of at most ``length`` tokens as best-fit decreasing finds.

    Each document, longest first, goes where it leaves the least room. Ties keep the given order.

    Args:
        rows: encoded documents.
        length: tokens of a pack at most.

    Raises:
        DataError: a document longer than ``length``, or empty.
    """
    sizes = [len(row.tokens) for row in rows]
    for index, size in enumerate(sizes):
        if not 0 < size <= length:
            raise DataError(f"row {index}: found {size} tokens, expected 1 to {length}")
    packs: list[list[Row]] = []
    open_at: list[list[int]] = [[] for _ in range(length + 1)]  # packs by the room they have left
    # bit r is set where a pack has r tokens of room: two operations on a big integer find the least r >= size
    rooms = 0
    for index in sorted(range(len(rows)), key=lambda i: -sizes[i]):
        size = sizes[index]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            number = open_at[room].pop()
            if not open_at[room]:
                rooms ^= 1 << room
            packs[number].append(rows[index])
        else:
            room, number = length, len(packs)
            packs.append([rows[index]])
        open_at[room - size].append(number)
        rooms |= 1 << (room - size)
    return packs


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


def pairs(
    rows: Sequence[tuple[Row, Row]],
    margins: Sequence[float],
    ratings: Sequence[int],
    safes: Sequence[tuple[int, int]],
) -> PairBatch:
    """P pairs of documents as one batch: all chosen, then all rejected, one a row.

    Args:
        rows: (chosen, rejected) of each pair.
        margins: logits.
        ratings: indices into RATINGS.
        safes: (chosen, rejected), 1 safe, 0 unsafe, -1 not labelled.
    """
    import torch

    assert len(rows) == len(margins) == len(ratings) == len(safes) > 0
    documents = [chosen for chosen, _ in rows] + [rejected for _, rejected in rows]
    batch = pad(documents)
    return PairBatch(
        batch=batch,
        ends=torch.from_numpy(_ends(documents, batch.tokens.shape[1])),
        margin=torch.tensor(margins, dtype=torch.float32),
        rating=torch.tensor(ratings, dtype=torch.int64),
        safe=torch.tensor([c for c, _ in safes] + [r for _, r in safes], dtype=torch.int64),
    )


def _ends(documents: Sequence[Row], width: int) -> NDArray[np.int64]:
    sizes = np.array([len(row.tokens) for row in documents], dtype=np.int64)
    return np.arange(len(documents), dtype=np.int64) * width + sizes - 1
