"""Intervals and standard errors for what a run reports."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Sequence
from typing import Any


def wilson(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209), right for few trials too.

    Args:
        successes: 0 … n; a tie may count as half.
        n: trials. With none nothing is known and the interval is (0, 1).
        z: normal quantile, 1.96 for 95 %.

    Returns:
        (low, high).

    Raises:
        ValueError: successes is not within 0 … n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: found {successes} successes in {n} trials, expected 0 to {n}")
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # at p = 0 and p = 1 one bound is exact in the algebra but not in floating point
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def accuracy_by(gaps: Sequence[float], groups: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How often a reward model prefers the chosen answer, by group and together, with 95 % Wilson intervals.

    Args:
        gaps: score of the chosen answer minus that of the rejected one, a pair each. An equal score counts half: a
            constant scorer has 0.5.
        groups: of the same pairs, say their ratings.
        names: of all groups.

    Returns:
        For each group and ``all``: accuracy (None without pairs), low, high, n.
    """
    right: dict[str, list[float]] = defaultdict(list)
    for gap, group in zip(gaps, groups, strict=True):
        for name in (group, "all"):
            right[name].append(preferred(gap))
    return {name: proportion(right[name]) for name in (*names, "all")}


def proportion(right: Sequence[float]) -> dict[str, Any]:
    """A share of cases with its 95 % Wilson interval.

    Args:
        right: of each case, 1, 0, or 0.5 for a tie.

    Returns:
        accuracy (None without cases), low, high, n.
    """
    n, total = len(right), math.fsum(right)
    low, high = wilson(total, n)
    return {"accuracy": total / n if n else None, "low": low, "high": high, "n": n}


def preferred(gap: float) -> float:
    """1 where the gap is positive, 0 where it is negative, 0.5 for a tie."""
    return 0.5 if gap == 0 else float(gap > 0)


def mean_se(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, ``sqrt(sum (x - mean)² / (n - 1) / n)``.

    Args:
        values: at least one; of a single one the standard error is not known and is NaN.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("mean_se: expected at least one value, found none")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """A mean with its standard error, as reports hold it: value (None without values), se (None below 2), n."""
    if not values:
        return {"value": None, "se": None, "n": 0}
    mean, se = mean_se(values)
    return {"value": mean, "se": se if len(values) > 1 else None, "n": len(values)}


def order_weights(n: int, k: int, rank: int) -> tuple[float, ...]:
    """Weights of n sorted values in the expected ``rank``-th smallest of ``k`` drawn without replacement.

    The i-th smallest of n values is the rank-th smallest of a draw in C(i-1, rank-1) · C(n-i, k-rank) of C(n, k)
    cases, so the weighted sum is the mean over every draw there is: unbiased for k independent samples.

    Args:
        n: how many values there are.
        k: 1 … n.
        rank: 1 … k; k is the largest.

    Raises:
        ValueError: k is not within 1 … n, or rank not within 1 … k.
    """
    if not 1 <= k <= n:
        raise ValueError(f"best_of: found k = {k}, expected 1 to the number of values, {n}")
    if not 1 <= rank <= k:
        raise ValueError(f"order_weights: found rank = {rank}, expected 1 to k = {k}")
    cases = math.comb(n, k)
    return tuple(math.comb(i, rank - 1) * math.comb(n - 1 - i, k - rank) / cases for i in range(n))


def best_of(values: Sequence[float], k: int) -> float:
    """Expected largest of ``k`` values drawn without replacement: the unbiased estimate of best-of-k.

    Args:
        values: n samples' scores.
        k: 1 … n.

    Raises:
        ValueError: k is not within 1 … n.
    """
    return math.fsum(map(operator.mul, sorted(values), order_weights(len(values), k, k)))


def median_weights(n: int, k: int) -> tuple[float, ...]:
    """Weights of n sorted values in the expected median of ``k`` drawn without replacement.

    Raises:
        ValueError: k is not within 1 … n.
    """
    low, high = order_weights(n, k, (k + 1) // 2), order_weights(n, k, k // 2 + 1)
    return tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
