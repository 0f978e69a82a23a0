from __future__ import annotations

import math
import statistics
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.stats import accuracy_by, best_of, mean_se, median_weights, order_weights, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (score, no continuity correction)."""
    found = wilson(successes, n)
    assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_by_hand() -> None:
    # z = 2, 2 of 4: half is 2 / (1 + 1) * sqrt(1/16 + 4/64)
    assert wilson(2, 4, z=2.0) == (
        pytest.approx(0.5 - math.sqrt(1 / 8)),
        pytest.approx(0.5 + math.sqrt(1 / 8)),
    )


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.1, 5))
def test_wilson_bounds_solve_the_score_equation(case: tuple[int, int], z: float) -> None:
    """Its definition: the p at which (observed - p) is z standard deviations of p itself."""
    successes, n = case
    low, high = wilson(successes, n, z)
    assert 0 <= low <= successes / n <= high <= 1
    for p in (low, high):
        assert (successes / n - p) ** 2 == pytest.approx(z * z * p * (1 - p) / n, abs=1e-12)


def test_wilson_at_the_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert wilson(2.5, 5) == (pytest.approx(1 - wilson(2.5, 5)[1]), pytest.approx(1 - wilson(2.5, 5)[0]))
    for successes, n in ((-1, 5), (6, 5), (1, 0), (math.nan, 5)):
        with pytest.raises(ValueError, match="wilson: found"):
            wilson(successes, n)


def test_mean_se_by_hand() -> None:
    assert mean_se([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3 / 4)))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_mean_se_is_the_sample_deviation_over_root_n(values: list[float]) -> None:
    mean, se = mean_se(values)
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert se == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), rel=1e-6, abs=1e-9)


def test_mean_se_of_one_and_of_none() -> None:
    mean, se = mean_se([3.0])
    assert mean == 3.0
    assert math.isnan(se)
    with pytest.raises(ValueError, match="expected at least one value"):
        mean_se([])


def test_best_of_by_hand() -> None:
    # of 1 2 4, the pairs have maxima 2, 4, 4
    assert best_of([4.0, 1.0, 2.0], 2) == pytest.approx(10 / 3)
    assert best_of([4.0, 1.0, 2.0], 1) == pytest.approx(7 / 3)
    assert best_of([4.0, 1.0, 2.0], 3) == 4.0


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), st.integers(1, 9))
def test_best_of_is_the_mean_over_every_choice(scores: list[float], k: int) -> None:
    k = min(k, len(scores))
    choices = [max(choice) for choice in combinations(scores, k)]
    assert best_of(scores, k) == pytest.approx(sum(choices) / len(choices), abs=1e-9)


def test_best_of_more_than_there_are_is_refused() -> None:
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"found k = {k}, expected 1 to the number of values, 2"):
            best_of([1.0, 2.0], k)


@given(st.integers(1, 8), st.data())
def test_order_weights_are_the_mean_over_every_choice(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    rank = data.draw(st.integers(1, k))
    chosen = [sorted(choice)[rank - 1] for choice in combinations(range(n), k)]
    weights = order_weights(n, k, rank)
    assert weights == pytest.approx([chosen.count(i) / len(chosen) for i in range(n)], abs=1e-12)


@given(st.integers(1, 8), st.data())
def test_median_weights_give_the_mean_median_of_every_choice(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    values = data.draw(st.lists(st.floats(-1e3, 1e3), min_size=n, max_size=n).map(sorted))
    expected = statistics.fmean(statistics.median(choice) for choice in combinations(values, k))
    found = math.fsum(w * x for w, x in zip(median_weights(n, k), values, strict=True))
    assert found == pytest.approx(expected, abs=1e-9)


def test_order_weights_of_a_hundred_of_a_thousand_sum_to_one() -> None:
    """Binomials of hundreds of digits must not overflow on the way."""
    assert math.fsum(order_weights(1000, 100, 50)) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(ValueError, match="found rank = 3, expected 1 to k = 2"):
        order_weights(4, 2, 3)


def test_accuracy_by_group_by_hand() -> None:
    found = accuracy_by([1.0, -2.0, 0.0, 3.0], ["a", "a", "b", "b"], ("a", "b", "c"))
    assert [found[name]["accuracy"] for name in ("a", "b", "c", "all")] == [0.5, 0.75, None, 0.625]
    assert [found[name]["n"] for name in found] == [2, 2, 0, 4]
    assert (found["all"]["low"], found["all"]["high"]) == wilson(2.5, 4)
    assert (found["c"]["low"], found["c"]["high"]) == (0.0, 1.0)
