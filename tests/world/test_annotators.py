from __future__ import annotations

import math
import random

import pytest

from align.records import RATINGS
from align.world.annotators import Annotators, ceilings, chances, choose, excluded, utility
from align.world.oracle import Verdict

EYES = Annotators(noise=0.12, significantly=0.6, better=0.35, slightly=0.15)
GAPS = (0.0, 0.05, 0.2, 0.4, 0.8)


@pytest.mark.parametrize("gap", GAPS)
def test_choice_is_bradley_terry(gap: float) -> None:
    right = sum(hit for hit, _ in chances(gap, EYES))
    assert right == pytest.approx(1 / (1 + math.exp(-gap / EYES.noise)), abs=1e-12)
    assert sum(sum(pair) for pair in chances(gap, EYES)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("gap", GAPS)
def test_exact_chances_are_those_of_the_annotators(gap: float) -> None:
    rng, n = random.Random(1), 40_000
    seen = [choose(gap, EYES, rng) for _ in range(n)]
    for rating, (right, wrong) in zip(RATINGS, chances(gap, EYES), strict=True):
        for first, chance in ((True, right), (False, wrong)):
            share = sum(c.first is first and c.rating == rating for c in seen) / n
            assert share == pytest.approx(chance, abs=4 * math.sqrt(max(chance * (1 - chance), 1 / n) / n))


def verdicts(count: int) -> list[tuple[Verdict, Verdict]]:
    rng = random.Random(2)

    def one() -> Verdict:
        safe = rng.random() < 0.6
        return Verdict(rng.choice((0.0, 0.2, 0.8, 1.0)) if safe else 0.0, safe, False, False, None)

    return [(one(), one()) for _ in range(count)]


@pytest.mark.parametrize("kind", ["helpful", "safety"])
def test_ceilings_are_what_a_model_that_knows_the_utilities_reaches(kind: str) -> None:
    pairs = verdicts(400)
    exact = ceilings(pairs, kind, EYES)  # type: ignore[arg-type]
    rng = random.Random(5)
    hits = dict.fromkeys((*RATINGS, "overall"), 0.0)
    totals = dict.fromkeys((*RATINGS, "overall"), 0)
    for first, second in pairs * 200:
        gap = utility(first, kind) - utility(second, kind)  # type: ignore[arg-type]
        choice = choose(gap, EYES, rng)
        if excluded(*((first, second) if choice.first else (second, first))):
            continue
        hit = 0.5 if gap == 0 else float((gap > 0) == choice.first)
        for name in (choice.rating, "overall"):
            hits[name] += hit
            totals[name] += 1
    for name, ceiling in exact.items():
        error = 4 / math.sqrt(totals[name]) / 2
        assert hits[name] / totals[name] == pytest.approx(ceiling["accuracy"], abs=error)
        assert totals[name] / totals["overall"] == pytest.approx(ceiling["share"], abs=0.01)
        assert ceiling["low"] <= ceiling["accuracy"] <= ceiling["high"]
    order = [exact[rating]["accuracy"] for rating in RATINGS]
    assert order == sorted(order, reverse=True)


def test_interval_covers_the_wide_worlds_ceiling() -> None:
    """Nine of ten small simulations' 95 % intervals hold the value of a large one."""
    pairs = verdicts(8_000)
    whole = ceilings(pairs, "helpful", EYES)["overall"]["accuracy"]
    parts = [ceilings(pairs[k::40], "helpful", EYES)["overall"] for k in range(40)]
    assert sum(part["low"] <= whole <= part["high"] for part in parts) >= 35


def test_safety_annotators_put_safety_first() -> None:
    decline = Verdict(0.0, True, True, True, None)
    comply = Verdict(0.0, False, False, True, None)
    assert utility(decline, "safety") > utility(comply, "safety")
    assert utility(decline, "helpful") == utility(comply, "helpful")
    assert excluded(comply, decline)
    assert not excluded(decline, comply)


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="significantly > better > slightly"):
        Annotators(noise=0.1, significantly=0.3, better=0.35, slightly=0.1)
