from __future__ import annotations

import statistics

import numpy as np
import pytest

from align.measures.bleu import self_bleu
from align.measures.diversity import curve, slope

ALIKE, APART = ["a b c d"] * 3, ["a b c d", "e f g h", "i j k l"]
BETWEEN = ["a b c d", "a b c e", "f g h i"]


def test_points_are_means_over_prompts_and_slopes_of_each_prompt() -> None:
    found = curve({1.0: {"p": APART, "q": BETWEEN}, 0.5: {"p": ALIKE, "q": ALIKE}})
    low, high = found["points"]
    middle = self_bleu(BETWEEN)
    assert 0 < middle < 100
    assert (low["temperature"], high["temperature"]) == (0.5, 1.0), "in the order of temperatures"
    assert (low["mean"], low["se"]) == (pytest.approx(100), pytest.approx(0, abs=1e-9))
    assert high["mean"] == pytest.approx(middle / 2)
    error = statistics.stdev([0, middle]) / 2**0.5
    assert (high["se"], high["high"]) == (pytest.approx(error), pytest.approx(middle / 2 + 1.96 * error))
    assert found["slope"]["mean"] == pytest.approx((-200 + 2 * (middle - 100)) / 2)
    assert found["slope"]["se"] == pytest.approx(statistics.stdev([-200, 2 * (middle - 100)]) / 2**0.5)


def test_one_prompt_and_one_temperature_have_no_error_and_no_slope() -> None:
    found = curve({0.7: {"p": APART}})
    assert found == {
        "points": [{"temperature": 0.7, "mean": 0.0, "se": None, "low": None, "high": None}],
        "slope": {"mean": None, "se": None},
    }


def test_the_slope_is_numpy_s() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=15), rng.normal(size=15)
    assert slope(list(zip(x, y, strict=True))) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-12)
