"""What scores say of best-of-N: maxima and medians against N, a temperature's worth, who won.

Everything is an unbiased estimate from the M samples that there are, averaged over prompts; intervals are normal
95 % ones over prompts. Numbers in the units of the scores, logits. An answer that cannot win, for instance because it
never ended, counts as the worst of its prompt that can: reward models have seen no such answers and may score them
above all others.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from align.rollout.best import usable
from align.stats import mean_se, median_weights, order_weights, wilson

Row: TypeAlias = Mapping[str, Any]  # of data_schemas/rollout.json
Z = 1.96  # normal quantile of a 95 % interval


def floors(rows: Iterable[Row]) -> dict[str, float]:
    """Each prompt's lowest score of an answer that can win; of any answer where none can."""
    lowest: dict[str, tuple[bool, float]] = {}
    for row in rows:
        found = not usable(row), row["scores"]["combined"]
        lowest[row["prompt_id"]] = min(lowest.get(row["prompt_id"], found), found)
    return {prompt: score for prompt, (_, score) in lowest.items()}


def by_prompt(rows: Sequence[Row], floor: Mapping[str, float] | None = None) -> dict[str, list[float]]:
    """What each answer is worth, by prompt: its combined score, or the floor where it cannot win.

    Args:
        rows: scored.
        floor: by prompt, from :func:`floors` of more rows than these; of these where None.
    """
    floor = floors(rows) if floor is None else floor
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        prompt = row["prompt_id"]
        groups[prompt].append(row["scores"]["combined"] if usable(row) else floor[prompt])
    return dict(groups)


def curve(rows: Sequence[Row], floor: Mapping[str, float] | None = None) -> list[dict[str, float]]:
    """Expected maximum and median of N samples against N = 1, 2, …, as far as every prompt has some (paper figure 7).

    Args:
        rows: of one policy, or of several taken together.
        floor: see :func:`by_prompt`.
    """
    groups = list(by_prompt(rows, floor).values())
    points = []
    for n in range(1, min((len(scores) for scores in groups), default=0) + 1):
        highest, middle = _expected(groups, n, median=False), _expected(groups, n, median=True)
        points.append({"n": n, **_interval("max", highest), **_interval("median", middle)})
    return points


def curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The curve of each policy and temperature, in the order of the rows (paper figures 7 and 8)."""
    groups: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["policy"], row["policy_sha256"], row["temperature"]].append(row)
    floor, found = floors(rows), []
    for (policy, digest, temperature), group in groups.items():
        known = {"policy": policy, "policy_sha256": digest, "temperature": temperature}
        found.append(known | {"prompts": len(by_prompt(group)), "points": curve(group, floor)})
    return found


def choose_temperature(probes: Mapping[float, Sequence[Row]], k: int) -> dict[str, Any]:
    """The temperature whose best of ``k`` is expected to score highest, with the curve it was read from.

    Prompts differ far more than temperatures do, so beside each mean stands its distance to the chosen one's with
    the interval over prompts of that difference: an interval that holds 0 could as well have been chosen.

    Args:
        probes: by temperature, the scored answers to the same prompts.
        k: samples a prompt to be drawn.
    """
    floor = floors([row for rows in probes.values() for row in rows])
    best = {
        temperature: _expected(list(by_prompt(rows, floor).values()), k, median=False)
        for temperature, rows in probes.items()
    }
    chosen = max(best, key=lambda temperature: math.fsum(best[temperature]))
    points = []
    for temperature, values in best.items():
        gap = [value - winner for value, winner in zip(values, best[chosen], strict=True)]
        rows = probes[temperature]
        mean, error = mean_se(values)
        points.append(
            {
                "temperature": temperature,
                "expected_best": mean,
                "standard_error": error,
                "low": mean - Z * error,
                "high": mean + Z * error,
                **_interval("to_chosen", gap),
                "usable": sum(map(usable, rows)) / len(rows),
            }
        )
    return {"chosen": chosen, "n": k, "prompts": len(best[chosen]), "curve": points}


def winners(best: Sequence[Row], policies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many prompts each policy version won, and its share with a 95 % interval.

    Args:
        best: the chosen rollouts.
        policies: versions, oldest first: ``name`` and ``sha256``.
    """
    won = Counter(row["policy_sha256"] for row in best)
    found = []
    for version, policy in enumerate(policies):
        count = won[policy["sha256"]]
        low, high = wilson(count, len(best))
        share = count / len(best) if best else 0.0
        found.append(
            {"version": version, "policy": policy["name"], "won": count, "share": share, "low": low, "high": high}
        )
    return found


def _expected(groups: Sequence[Sequence[float]], k: int, *, median: bool) -> list[float]:
    """For each prompt the expected median, or maximum, of ``k`` of its scores."""
    weights: dict[int, NDArray[np.float64]] = {}
    values = []
    for scores in groups:
        n = len(scores)
        if n not in weights:
            weights[n] = np.array(median_weights(n, k) if median else order_weights(n, k, k))
        values.append(float(np.sort(np.array(scores)) @ weights[n]))
    return values


def _interval(name: str, values: Sequence[float]) -> dict[str, float]:
    mean, error = mean_se(values)
    return {name: mean, f"{name}_low": mean - Z * error, f"{name}_high": mean + Z * error}
