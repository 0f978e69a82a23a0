from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.measures.distribution import histogram, quantiles

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=60)


@given(VALUES)
def test_quantiles_are_those_of_statistics(values: list[float]) -> None:
    found = quantiles(values)
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    expected = [min(values), cuts[0], cuts[4], cuts[9], cuts[14], cuts[18], max(values)]
    assert list(found["quantiles"].values()) == pytest.approx(expected, abs=1e-9)
    assert found["mean"] == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert found["sd"] == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-9)


def test_quantiles_of_few() -> None:
    assert quantiles([])["quantiles"]["0.5"] is None
    assert (quantiles([3.0])["sd"], quantiles([3.0])["quantiles"]["0.95"]) == (None, 3.0)


@given(VALUES, VALUES)
def test_groups_share_their_bins_and_nothing_is_lost(a: list[float], b: list[float]) -> None:
    found = histogram({"a": a, "b": b, "none": []}, bins=7)
    edges = found["edges"]
    assert len(edges) == 8
    for name, values in (("a", a), ("b", b), ("none", [])):
        counted = [
            sum(low <= v < high or (high == edges[-1] and v == high) for v in values) for low, high in pairwise(edges)
        ]
        assert found["counts"][name] == counted
        assert sum(counted) == len(values)


def test_one_value_only_has_a_histogram_too() -> None:
    found = histogram({"a": [2.0, 2.0]}, bins=4)
    assert sum(found["counts"]["a"]) == 2
    assert all(math.isfinite(edge) for edge in found["edges"])
