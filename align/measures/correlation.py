"""Correlation of two columns, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z = 1.96  # normal quantile of a 95 % interval


def pearson(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Pearson's correlation with Fisher's interval, ``tanh(atanh r ± 1.96 / sqrt(n - 3))`` (Fisher 1921).

    Returns:
        r (None where a column is constant or shorter than 2), low, high (None also below 4 points), n.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return _with_interval(_centred(a, b), len(a), 1.0)


def spearman(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Spearman's rank correlation, ties at their mean rank.

    The interval is Fisher's with the variance ``(1 + r² / 2) / (n - 3)`` (Bonett and Wright 2000, Psychometrika 65:23).

    Returns:
        As :func:`pearson`.
    """
    r = _centred(ranks(x), ranks(y))
    return _with_interval(r, len(x), 1.0 if r is None else 1 + r * r / 2)


def pearson_of_gaps(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Pearson's correlation of differences within pairs, each pair taken in both orders.

    Which answer of a pair comes first is a matter of naming; taken both ways round, both columns have mean 0, and
    r = sum xy / sqrt(sum x² · sum y²) whatever the names. The interval counts each pair once.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return _with_interval(_centred(np.concatenate((a, -a)), np.concatenate((b, -b))), len(a), 1.0)


def spearman_of_gaps(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Spearman's correlation of differences within pairs, each pair taken in both orders."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    r = _centred(ranks(np.concatenate((a, -a))), ranks(np.concatenate((b, -b))))
    return _with_interval(r, len(a), 1.0 if r is None else 1 + r * r / 2)


def ranks(values: Sequence[float] | Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    mean: Floats = np.cumsum(counts) - (counts - 1) / 2
    return mean[place]


def _centred(a: Floats, b: Floats) -> float | None:
    if len(a) != len(b):
        raise ValueError(f"correlation: found {len(a)} and {len(b)} values, expected as many of each")
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return None
    # scaled first: the squares of very small or large scores must not leave the range of floats
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    a, b = a - a.mean(), b - b.mean()
    r = float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))
    return min(1.0, max(-1.0, r))


def _with_interval(r: float | None, n: int, scale: float) -> dict[str, Any]:
    low = high = None
    if r is not None and n > 3:
        half = Z * math.sqrt(scale / (n - 3))
        low, high = (r, r) if abs(r) == 1 else (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))
    return {"r": r, "low": low, "high": high, "n": n}
