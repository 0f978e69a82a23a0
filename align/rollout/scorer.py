"""Reward models reading many rows: sorted by length, in batches of about equal work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from align.errors import DataError

if TYPE_CHECKING:
    from align.model.heads import Scorer


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, at most ``batch_tokens`` tokens each with padding, or one row."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))  # the longest row comes first
        yield order[start : start + size]
        start += size


@torch.inference_mode()
def score_rows(scorer: Scorer, rows: Sequence[Sequence[int]], batch_tokens: int = 8192) -> list[float]:
    """The score of each row, read at its last token; rows that are alike are read once.

    Args:
        scorer: a reward model.
        rows: encoded prompt and answer, joined; none empty.
        batch_tokens: size of a forward pass, padding included, tokens.

    Returns:
        Logits, in the order of the rows.

    Raises:
        DataError: an empty row.
    """
    for number, row in enumerate(rows):
        if len(row) == 0:
            raise DataError(f"row {number}: found no tokens; expected a prompt and an answer to score")
    keys = [tuple(row) for row in rows]
    different = list(dict.fromkeys(keys))
    if len(different) < len(rows):
        known = dict(zip(different, score_rows(scorer, different, batch_tokens), strict=True))
        return [known[key] for key in keys]
    device = next(scorer.parameters()).device
    scores = [0.0] * len(rows)
    for picked in length_batches([len(row) for row in rows], batch_tokens):
        lengths = np.array([len(rows[i]) for i in picked])
        width = int(lengths[0])
        tokens = np.zeros((len(picked), width), dtype=np.int64)
        for line, i in enumerate(picked):
            tokens[line, : lengths[line]] = rows[i]
        last = torch.from_numpy(np.arange(len(picked)) * width + lengths - 1)
        # right padding comes after everything that is read, so plain causal attention needs no mask
        read = scorer(torch.from_numpy(tokens).to(device), at=last.to(device))
        for i, score in zip(picked, read.tolist(), strict=True):
            scores[i] = score
    return scores
