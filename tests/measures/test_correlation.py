"""Correlations beside slow definitions, published examples, and how often their intervals hold."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.measures.correlation import pearson, pearson_of_gaps, ranks, spearman, spearman_of_gaps

COLUMNS = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=40)


def plain_ranks(values: list[float]) -> list[float]:
    """One plus how many are smaller, plus half of the others that are equal."""
    return [1 + sum(w < v for w in values) + (values.count(v) - 1) / 2 for v in values]


@given(COLUMNS)
def test_both_are_their_definitions(rows: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in rows], [float(b) for _, b in rows]
    assert ranks(x).tolist() == plain_ranks(x)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert pearson(x, y)["r"] is None
        assert spearman(x, y)["r"] is None
        return
    assert pearson(x, y)["r"] == pytest.approx(statistics.correlation(x, y), abs=1e-9)
    assert spearman(x, y)["r"] == pytest.approx(statistics.correlation(plain_ranks(x), plain_ranks(y)), abs=1e-9)


def test_spearman_as_published() -> None:
    """IQ and hours of television a week, the example of Wikipedia's article: rho = -29 / 165."""
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(iq, hours)["r"] == pytest.approx(-29 / 165)


def test_intervals_by_hand() -> None:
    rng = random.Random(0)
    x = [rng.gauss(0, 1) for _ in range(103)]
    y = [a + rng.gauss(0, 1) for a in x]
    found, ranked = pearson(x, y), spearman(x, y)
    assert found["n"] == 103
    assert found["low"] == pytest.approx(math.tanh(math.atanh(found["r"]) - 0.196))
    assert found["high"] == pytest.approx(math.tanh(math.atanh(found["r"]) + 0.196))
    assert ranked["high"] == pytest.approx(
        math.tanh(math.atanh(ranked["r"]) + 0.196 * math.sqrt(1 + ranked["r"] ** 2 / 2))
    )


def test_intervals_hold_as_often_as_they_say() -> None:
    """Bivariate normals of correlation 0.6, for which Spearman's is 6 / pi asin(0.3)."""
    rng, held = random.Random(1), {"pearson": 0, "spearman": 0}
    for _ in range(500):
        x = [rng.gauss(0, 1) for _ in range(60)]
        y = [0.6 * a + 0.8 * rng.gauss(0, 1) for a in x]
        for name, found, truth in (
            ("pearson", pearson(x, y), 0.6), ("spearman", spearman(x, y), 6 / math.pi * math.asin(0.3)),
        ):  # fmt: skip
            held[name] += found["low"] <= truth <= found["high"]
    assert 0.92 * 500 <= held["pearson"] <= 0.98 * 500
    assert 0.92 * 500 <= held["spearman"] <= 0.98 * 500


@given(COLUMNS, st.data())
def test_differences_do_not_depend_on_which_answer_is_named_first(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    x, y = [float(a) for a, _ in rows], [float(b) for _, b in rows]
    signs = data.draw(st.lists(st.sampled_from([1, -1]), min_size=len(x), max_size=len(x)))
    turned = [s * a for s, a in zip(signs, x, strict=True)], [s * b for s, b in zip(signs, y, strict=True)]
    both = [*x, *(-a for a in x)], [*y, *(-b for b in y)]
    for of_gaps, of_columns in ((pearson_of_gaps, pearson), (spearman_of_gaps, spearman)):
        found = of_gaps(x, y)
        assert found["n"] == len(x)
        assert (found["r"] is None) == (of_columns(*both)["r"] is None)
        if found["r"] is not None:
            assert found["r"] == pytest.approx(of_columns(*both)["r"], abs=1e-9)
            assert of_gaps(*turned)["r"] == pytest.approx(found["r"], abs=1e-9)


def test_edges() -> None:
    assert pearson([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]) == {"r": 1.0, "low": 1.0, "high": 1.0, "n": 5}
    assert pearson([1, 2, 3], [1, 2, 4])["low"] is None
    assert pearson([1], [2])["r"] is None
    assert pearson([], [])["r"] is None
    assert pearson([1e-300, 2e-300, 4e-300], [1e300, 2e300, 4e300])["r"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="found 2 and 3 values"):
        spearman([1, 2], [1, 2, 3])
