"""What is expected of the best of N, against every draw there is and closed forms, and the temperature it gives."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from align.rollout.curves import by_prompt, choose_temperature, curve, curves, floors, winners
from tests.rollout.rows import SHA, row

SCORES = {"p": [0.3, -1.0, 2.0, 0.3], "q": [5.0, 4.0, -2.5, 0.0], "r": [-0.1, -0.2, -0.3, -0.4]}
ROWS = [row(prompt, scores[i]) for i in range(4) for prompt, scores in SCORES.items()]


def over_draws(scores: Sequence[float], k: int, what: Any) -> float:
    """A statistic of k scores, averaged over every draw there is."""
    return statistics.fmean(what(draw) for draw in itertools.combinations(scores, k))


def test_the_curve_of_figure_7() -> None:
    """Maximum and median of N samples, each the mean over every draw, with intervals over the prompts."""
    found = curve(ROWS)
    assert [point["n"] for point in found] == [1, 2, 3, 4]
    for point in found:
        for name, what in (("max", max), ("median", statistics.median)):
            each = [over_draws(scores, int(point["n"]), what) for scores in SCORES.values()]
            mean, error = statistics.fmean(each), statistics.stdev(each) / 3**0.5
            assert point[name] == pytest.approx(mean, abs=1e-13)
            assert point[f"{name}_low"] == pytest.approx(mean - 1.96 * error, abs=1e-12)
            assert point[f"{name}_high"] == pytest.approx(mean + 1.96 * error, abs=1e-12)
    assert by_prompt(ROWS) == SCORES
    assert found[3]["max"] == pytest.approx((2.0 + 5.0 - 0.1) / 3, abs=1e-13)
    assert len(curve([*ROWS, row("few", 1.0), row("few", 2.0)])) == 2, "as far as every prompt has samples"
    assert curve([]) == []


def test_curves_are_told_apart_by_policy_and_temperature() -> None:
    hot = [one | {"temperature": 1.3, "scores": {"combined": 7.0}} for one in ROWS[:3]]
    other = [one | {"policy_sha256": SHA["v2"]} for one in ROWS]  # of the same name
    found = curves([*ROWS, *hot, *other])
    assert [(c["policy_sha256"][0], c["temperature"], c["prompts"], len(c["points"])) for c in found] == [
        ("a", 0.9, 3, 4), ("a", 1.3, 3, 1), ("c", 0.9, 3, 4),
    ]  # fmt: skip
    assert found[0]["points"] == found[2]["points"] == curve(ROWS)
    assert found[1]["points"][0]["max"] == 7.0


def test_the_temperature_is_that_of_the_best_expected_maximum_not_of_the_best_mean() -> None:
    cold, hot = [1.0, 1.0, 1.0, 1.0], [-4.0, 3.0, -4.0, 3.0]
    probes = {0.7: [row(p, s) for p in "pq" for s in cold], 1.0: [row(p, s) for p in "pq" for s in hot]}
    found = choose_temperature(probes, 2)
    assert (found["chosen"], found["n"], found["prompts"]) == (1.0, 2, 2)
    one, two = found["curve"]
    assert (one["temperature"], two["temperature"]) == (0.7, 1.0)
    assert one["expected_best"] == pytest.approx(1.0, abs=1e-13)
    assert two["expected_best"] == pytest.approx(over_draws(hot, 2, max), abs=1e-13)
    assert (one["usable"], two["usable"]) == (1.0, 1.0)
    assert choose_temperature(probes, 1)["chosen"] == 0.7


def test_an_answer_that_cannot_win_is_worth_the_worst_that_can() -> None:
    """A reward model that likes endless answers once chose the hottest temperature by what could never be learnt."""
    endless = [row("p", 9.0, finish="length"), row("p", 8.0, answer=""), row("p", 0.5), row("p", 0.75)]
    assert floors(endless) == {"p": 0.5}
    assert by_prompt(endless) == {"p": [0.5, 0.5, 0.5, 0.75]}
    assert floors([row("p", 9.0, finish="length"), row("p", 8.0, finish="length")]) == {"p": 8.0}
    found = choose_temperature({1.0: [row("p", s) for s in (0.25, 1.0, 1.0, 1.0)], 2.0: endless}, 2)
    assert found["chosen"] == 1.0
    assert found["curve"][1]["usable"] == 0.5
    # the floor is the prompt's over all temperatures
    assert found["curve"][1]["expected_best"] == pytest.approx(over_draws([0.25, 0.25, 0.5, 0.75], 2, max), abs=1e-13)
    hot = [one | {"temperature": 2.0} for one in endless]
    both = curves([row("p", 0.25), *hot])
    assert both[1]["points"][3]["max"] == 0.75
    assert both[1]["points"][0]["max"] == pytest.approx((0.25 + 0.25 + 0.5 + 0.75) / 4, abs=1e-13)


def test_the_distance_to_the_chosen_is_paired_by_prompt() -> None:
    """Prompts differ by 100, temperatures by about 1: the interval of the difference must not see the prompts."""
    probes = {
        0.5: [row(p, base + s) for p, base in (("p", 0.0), ("q", 100.0)) for s in (0.0, 1.0)],
        1.0: [row(p, base + s) for p, base in (("p", 0.0), ("q", 100.0)) for s in (2.0, 1.5)],
    }
    cold = choose_temperature(probes, 2)["curve"][0]
    assert cold["high"] - cold["low"] > 190
    assert (cold["to_chosen"], cold["to_chosen_low"], cold["to_chosen_high"]) == pytest.approx((-1.0, -1.0, -1.0))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_the_search_is_within_a_step_of_brute_force_on_policies_of_known_sharpness(sharpness: float) -> None:
    """Policies that draw one of 200 answers by a softmax: the expected best of N is known in closed form.

    Rewards rise with likelihood and scatter about it, so too cold draws the same answer again and too hot poor ones.
    """
    grid, n = [0.2, 0.4, 0.6, 0.9, 1.3, 1.9, 2.8, 4.2], 8
    logits = {p: [sharpness * random.Random(f"{p}/{i}").gauss(0, 2) for i in range(200)] for p in range(48)}
    rewards = {
        p: [random.Random(f"reward {p}/{i}").gauss(0, 1) + 0.3 * logit / sharpness for i, logit in enumerate(logits[p])]
        for p in logits
    }
    exact = {t: statistics.fmean(_exact_best(logits[p], rewards[p], t, n) for p in logits) for t in grid}
    best = max(exact, key=lambda t: exact[t])
    assert 0 < grid.index(best) < len(grid) - 1, "the oracle's best must not be at the grid's end"
    rng, probes = random.Random(1), {}
    for t in grid:
        drawn = {p: rng.choices(rewards[p], [math.exp(logit / t) for logit in logits[p]], k=16) for p in logits}
        probes[t] = [row(str(p), score) for p, scores in drawn.items() for score in scores]
    found = choose_temperature(probes, n)
    assert abs(grid.index(found["chosen"]) - grid.index(best)) <= 1
    inside = [point["low"] <= exact[point["temperature"]] <= point["high"] for point in found["curve"]]
    assert sum(inside) >= len(grid) - 1, "95 % intervals hold what they estimate"


def _exact_best(logits: Sequence[float], rewards: Sequence[float], temperature: float, n: int) -> float:
    """E max of n independent draws: the sum over answers by rising reward of r · (F(r)^n - F(r-)^n)."""
    weights = [math.exp(logit / temperature) for logit in logits]
    total, below, expected = sum(weights), 0.0, 0.0
    for reward, weight in sorted(zip(rewards, weights, strict=True)):
        expected += reward * (((below + weight) / total) ** n - (below / total) ** n)
        below += weight
    return expected


def test_shares_of_winners() -> None:
    best = [
        row("p", 1.0, policy="v1"),
        row("q", 1.0, policy="v1"),
        row("r", 1.0, policy="v2"),
        row("s", 1.0, policy="v1"),
    ]
    shelf = [{"name": name, "sha256": SHA[name]} for name in ("sft", "v1", "v2")]
    found = winners(best, shelf)
    assert [(w["version"], w["policy"], w["won"], w["share"]) for w in found] == [
        (0, "sft", 0, 0.0), (1, "v1", 3, 0.75), (2, "v2", 1, 0.25),
    ]  # fmt: skip
    assert all(w["low"] <= w["share"] <= w["high"] for w in found)
    assert winners([], shelf)[0]["share"] == 0.0
