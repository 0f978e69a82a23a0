"""Distributions of scores: quantiles, and histograms that share their bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 40  # of a histogram; ours


def quantiles(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, sd (of a sample, None below 2 values) and quantiles, linear between the two nearest values."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return {"n": 0, "mean": None, "sd": None, "quantiles": {f"{q:g}": None for q in QUANTILES}}
    at = np.quantile(x, QUANTILES)
    return {
        "n": len(x),
        "mean": float(x.mean()),
        "sd": float(x.std(ddof=1)) if len(x) > 1 else None,
        "quantiles": {f"{q:g}": float(value) for q, value in zip(QUANTILES, at, strict=True)},
    }


def histogram(groups: Mapping[str, Sequence[float]], bins: int = BINS) -> dict[str, Any]:
    """Counts of several groups in the same bins of equal width, from the least to the largest value of all.

    Args:
        groups: name -> values; at least one value among them.
        bins: their number.

    Returns:
        ``edges`` [bins + 1], and ``counts``: name -> [bins]; a bin holds its lower edge, the last one both.
    """
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(v, dtype=np.float64) for v in groups.values()]), bins)
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in groups.items()}
    return {"edges": edges.tolist(), "counts": counts}
