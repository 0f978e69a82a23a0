"""People who compare two answers: a noisy choice, four ratings, and how well anyone could predict them.

An annotator perceives the gap of two utilities with logistic noise and chooses by its sign, which is the
Bradley-Terry model; the rating is the size of the perceived gap. The best a reward model can do is to know
the utilities, so its best accuracy at each rating follows exactly for each pair.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic

from align.config import config
from align.records import RATINGS, Kind, Rating
from align.world.oracle import Verdict

Positive = Annotated[float, pydantic.Field(gt=0)]
UNSAFE_WEIGHT = 1.0  # of being safe, to a safety annotator
HELP_WEIGHT = 0.5  # of being helpful, to a safety annotator


@config
class Annotators:
    """How well annotators see and when they call a gap by which name."""

    noise: Positive  # scale of the logistic noise, in units of utility
    significantly: Positive  # perceived gaps from here up
    better: Positive
    slightly: Positive

    def __post_init__(self) -> None:
        """Refuse thresholds out of order."""
        if not self.significantly > self.better > self.slightly:
            raise ValueError("expected significantly > better > slightly")

    def bands(self) -> list[tuple[float, float]]:
        """The perceived gap's range of each rating, in the order of ``RATINGS``."""
        edges = (math.inf, self.significantly, self.better, self.slightly, 0.0)
        return [(edges[place + 1], edges[place]) for place in range(len(RATINGS))]


@dataclass(frozen=True, slots=True)
class Choice:
    """An annotator's verdict on a pair."""

    first: bool  # the first answer was chosen
    rating: Rating


def utility(verdict: Verdict, kind: Kind) -> float:
    """What an answer is worth to an annotator of a kind."""
    if kind == "helpful":
        return verdict.helpful
    return UNSAFE_WEIGHT * verdict.safe + HELP_WEIGHT * verdict.helpful


def choose(gap: float, annotators: Annotators, rng: random.Random) -> Choice:
    """Compare two answers whose utilities differ by ``gap`` (first minus second)."""
    uniform = min(max(rng.random(), 1e-12), 1 - 1e-12)
    perceived = gap + annotators.noise * math.log(uniform / (1 - uniform))
    for rating, (low, _) in zip(RATINGS, annotators.bands(), strict=True):
        if abs(perceived) >= low:
            return Choice(perceived > 0, rating)
    raise AssertionError("the last band starts at 0")


def excluded(chosen: Verdict, rejected: Verdict) -> bool:
    """Chosen unsafe while the other is safe: such a pair is left out (section 3.2.1)."""
    return not chosen.safe and rejected.safe


def chances(gap: float, annotators: Annotators) -> list[tuple[float, float]]:
    """For each rating: the chances of (rated so and the better chosen, rated so and the worse chosen)."""
    gap = abs(gap)

    def below(x: float) -> float:
        z = (x - gap) / annotators.noise
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0

    return [(below(high) - below(low), below(-low) - below(-high)) for low, high in annotators.bands()]


def ceilings(
    pairs: Iterable[tuple[Verdict, Verdict]], kind: Kind, annotators: Annotators
) -> dict[str, dict[str, float]]:
    """The best reachable accuracy per rating and ``overall``, with 95 % intervals over the drawn pairs.

    Each pair's chances are exact, so the interval is that of the pairs' own variety alone; a ratio's
    variance by the delta method.

    Args:
        pairs: verdicts on two answers to one prompt, both orders equally likely.
        kind: whose annotators.
        annotators: how they see.
    """
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in (*RATINGS, "overall")}
    for first, second in pairs:
        gap = utility(first, kind) - utility(second, kind)
        better, worse = (first, second) if gap >= 0 else (second, first)
        mine: list[tuple[float, float]] = []
        for right, wrong in chances(gap, annotators):
            seen = (0.0 if excluded(better, worse) else right, 0.0 if excluded(worse, better) else wrong)
            # Equal utilities: nobody can know, whichever was chosen.
            hit = seen[0] if gap != 0 else sum(seen) / 2
            mine.append((hit, sum(seen)))
        for name, row in zip(RATINGS, mine, strict=True):
            rows[name].append(row)
        rows["overall"].append((sum(hit for hit, _ in mine), sum(total for _, total in mine)))
    everything = sum(total for _, total in rows["overall"])
    return {name: _ratio(values, everything) for name, values in rows.items()}


def _ratio(rows: Sequence[tuple[float, float]], everything: float) -> dict[str, float]:
    weight = sum(total for _, total in rows)
    accuracy = sum(hit for hit, _ in rows) / weight
    spread = math.sqrt(sum((hit - accuracy * total) ** 2 for hit, total in rows)) / weight
    return {
        "accuracy": round(accuracy, 5),
        "low": round(max(0.0, accuracy - 1.96 * spread), 5),
        "high": round(min(1.0, accuracy + 1.96 * spread), 5),
        "share": round(weight / everything, 5),
    }


def preference(
    prompt: Sequence[dict[str, str]],
    answers: tuple[str, str],
    verdicts: tuple[Verdict, Verdict],
    choice: Choice,
    kind: Kind,
    source: str,
) -> dict[str, Any]:
    """The JSON row of one comparison."""
    win, lose = (0, 1) if choice.first else (1, 0)
    row: dict[str, Any] = {
        "prompt": list(prompt),
        "chosen": [{"role": "assistant", "content": answers[win]}],
        "rejected": [{"role": "assistant", "content": answers[lose]}],
        "rating": choice.rating,
    }
    if kind == "safety":
        row |= {"chosen_safe": verdicts[win].safe, "rejected_safe": verdicts[lose].safe}
    return row | {"kind": kind, "source": source}
