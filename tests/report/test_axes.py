"""Ticks and scales."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.report.axes import Scale, percent, plain, ticks

FINITE = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-9)


@given(FINITE, FINITE, st.integers(3, 12))
def test_ticks_are_round_even_few_and_hold_the_range(a: float, b: float, most: int) -> None:
    low, high = min(a, b), max(a, b)
    if high - low < 1e-9 * max(abs(low), abs(high)):
        high = low
    found = ticks(low, high, most)
    assert 2 <= len(found) <= most
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    assert all(math.isclose(d - c, step, rel_tol=1e-6) for c, d in pairwise(found))
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(math.isclose(mantissa, m, rel_tol=1e-6) for m in (1, 2, 2.5, 5))


def test_ticks_by_hand() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.31, 0.68) == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert ticks(-3, 47) == [-20, 0, 20, 40, 60], "steps of ten would be seven"
    assert ticks(5, 5)[0] < 5 < ticks(5, 5)[-1]
    assert ticks(0, 0)[0] < 0 < ticks(0, 0)[-1]


def test_how_ticks_are_written() -> None:
    def written(*values: float) -> list[str]:
        return [plain(values)(v) for v in values]

    assert written(0, 0.25, 0.5) == ["0.00", "0.25", "0.50"]
    assert written(-10, 0, 10) == ["−10", "0", "10"]
    assert written(0, 1000, 2000) == ["0", "1,000", "2,000"]
    assert written(0, 1e-5, 2e-5) == ["0", "1e-5", "2e-5"]
    assert written(0, 2e6) == ["0", "2e6"]
    shares = (0.0, 0.05, 0.1)
    assert [percent(shares)(v) for v in shares] == ["0 %", "5 %", "10 %"]


def test_a_scale_maps_ends_to_ends_and_is_linear() -> None:
    scale = Scale(2.0, 6.0, 100.0, 20.0)  # downwards, as y is
    assert [scale(v) for v in (2.0, 4.0, 6.0)] == pytest.approx([100.0, 60.0, 20.0])
