"""Calibration beside a slow plain definition, a case by hand, and scorers whose calibration is known."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.measures.calibration import calibration
from align.stats import wilson


def plain(gaps: list[float], bins: int) -> float:
    """Guo et al. 2017, equation 3, bin by bin: sum of |B| / n |acc(B) - conf(B)|, B of equal width over (0.5, 1)."""
    total = 0.0
    for b in range(bins):
        low, high = 0.5 + 0.5 * b / bins, 0.5 + 0.5 * (b + 1) / bins
        inside = []
        for gap in gaps:
            p = 1 / (1 + math.exp(-gap))
            confidence = max(p, 1 - p)
            if low <= confidence < high or (b == bins - 1 and confidence == 1):
                inside.append((confidence, 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0))
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(r for _, r in inside) / len(inside)
            total += len(inside) / len(gaps) * abs(accuracy - confidence)
    return total


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=60), st.sampled_from([1, 4, 8]))
def test_ece_is_its_definition(gaps: list[float], bins: int) -> None:
    # bins whose bounds are exact in floating point: the two put a confidence on a bound in the same one
    assert calibration(gaps, bins)["ece"] == pytest.approx(plain(gaps, bins), abs=1e-9)


def test_by_hand() -> None:
    """Confidences .65 (right, wrong) and .95 (right, right, wrong), and a tie at .5."""
    low, high = math.log(0.65 / 0.35), math.log(0.95 / 0.05)
    found = calibration([low, -low, high, high, -high, 0.0], bins=5)
    bounds = [(b["n"], round(b["low"], 9), round(b["high"], 9)) for b in found["bins"]]
    assert bounds == [(1, 0.5, 0.6), (2, 0.6, 0.7), (3, 0.9, 1.0)]
    assert [b["confidence"] for b in found["bins"]] == pytest.approx([0.5, 0.65, 0.95])
    assert [b["accuracy"] for b in found["bins"]] == pytest.approx([0.5, 0.5, 2 / 3])
    assert (found["bins"][2]["accuracy_low"], found["bins"][2]["accuracy_high"]) == wilson(2, 3)
    assert found["ece"] == pytest.approx(2 / 6 * 0.15 + 3 / 6 * (0.95 - 2 / 3))
    assert found["overconfidence"] == pytest.approx((0.5 + 1.3 + 2.85) / 6 - 3.5 / 6)
    losses = [math.log(p) for p in (0.65, 0.35, 0.95, 0.95, 0.05, 0.5)]
    assert found["loss"] == pytest.approx(-sum(losses) / 6)
    assert found["n"] == 6


def drawn(n: int, scale: float, seed: int = 0) -> list[float]:
    """Gaps of a scorer that says ``scale`` times the logit of the truth: calibrated at 1, over-confident above."""
    rng = random.Random(seed)
    gaps = []
    for _ in range(n):
        truth = rng.gauss(0, 1.5)
        gaps.append(scale * truth if rng.random() < 1 / (1 + math.exp(-truth)) else -scale * truth)
    return gaps


def test_a_calibrated_scorer_has_an_ece_near_zero_and_an_over_confident_one_has_not() -> None:
    right, sure, shy = (calibration(drawn(20_000, scale)) for scale in (1.0, 3.0, 0.2))
    assert right["ece"] < 0.01
    assert abs(right["overconfidence"]) < 0.01
    assert sure["ece"] > 0.1
    assert sure["overconfidence"] > 0.1
    assert shy["ece"] > 0.1
    assert shy["overconfidence"] < -0.1
    assert right["loss"] < min(sure["loss"], shy["loss"])


def test_what_chance_alone_shows() -> None:
    """The mean ECE of calibrated scorers of the same confidences over many draws."""
    for n in (60, 600):
        found = [calibration(drawn(n, 1.0, seed)) for seed in range(300)]
        mean = sum(f["ece"] for f in found) / len(found)
        assert sum(f["ece_if_calibrated"] for f in found) / len(found) == pytest.approx(mean, rel=0.1)


def test_scores_far_apart() -> None:
    found = calibration([1e4, -1e4, 745.0])
    assert found["bins"] == [pytest.approx(found["bins"][0] | {"n": 3, "confidence": 1.0, "accuracy": 2 / 3})]
    assert found["loss"] == pytest.approx(1e4 / 3)
