"""Whether a reward model's probabilities are what they say.

``sigmoid(score of one answer - score of the other)`` is the probability that the one is preferred (Bradley-Terry). It
is symmetric: naming the other answer first turns p into 1 - p. So each pair is told by what the model is sure of and
not by its label: its **confidence** is max(p, 1 - p), in [0.5, 1], and it is **right** where the answer of higher score
was chosen (a tie counts half). Presenting every pair as (chosen, rejected) instead would have all labels 1 and call
every model under-confident.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from align.stats import preferred, wilson

BINS = 10  # of equal width over [0.5, 1]; ours


def calibration(gaps: Sequence[float], bins: int = BINS) -> dict[str, Any]:
    """The reliability curve and the expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    ECE = sum over bins of n_b / n · abs(accuracy_b - confidence_b), with ``bins`` bins of equal width over [0.5, 1],
    each with its lower bound, the last with both.

    Args:
        gaps: score of the chosen answer minus that of the rejected one, logits; finite, at least one.
        bins: their number.

    Returns:
        ``ece``; ``ece_if_calibrated``, about what a perfectly calibrated model with these confidences would show by
        chance at this n; ``overconfidence``, mean confidence minus accuracy; ``loss``, the mean of
        -log sigmoid(gap), nats; ``n``; and ``bins``, the non-empty ones: low, high, n, confidence (mean), accuracy
        with its 95 % Wilson interval accuracy_low, accuracy_high.
    """
    gap = np.asarray(gaps, dtype=np.float64)
    # of abs(gap), so that exp never overflows
    confidence = 1 / (1 + np.exp(-np.abs(gap)))
    right = np.array([preferred(g) for g in gaps], dtype=np.float64)
    # both bounds of [0.5, 1] are in a bin: the last one is closed
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    found, ece, chance = [], 0.0, 0.0
    for b in range(bins):
        inside = place == b
        n = int(inside.sum())
        if n == 0:
            continue
        sure, share = float(confidence[inside].mean()), float(right[inside].mean())
        low, high = wilson(float(right[inside].sum()), n)
        ece += n / len(gap) * abs(share - sure)
        # the mean of abs(normal) is sqrt(2 / pi) standard deviations
        spread = math.sqrt(float((confidence[inside] * (1 - confidence[inside])).sum()))
        chance += math.sqrt(2 / math.pi) * spread / len(gap)
        found.append(
            {
                "low": 0.5 + b / (2 * bins),
                "high": 0.5 + (b + 1) / (2 * bins),
                "n": n,
                "confidence": sure,
                "accuracy": share,
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return {
        "ece": ece,
        "ece_if_calibrated": chance,
        "overconfidence": float(confidence.mean() - right.mean()),
        "loss": float(np.logaddexp(0.0, -gap).mean()),
        "n": len(gap),
        "bins": found,
    }
