"""Preferences to report on."""

from __future__ import annotations

import random

from align.records import RATINGS, Message, Messages, Preference


def said(text: str) -> Messages:
    return (Message("assistant", text),)


def pair(question: str, chosen: str = "a", rejected: str = "b", **rest: object) -> Preference:
    return Preference(prompt=(Message("user", question),), chosen=said(chosen), rejected=said(rejected), **rest)  # type: ignore[arg-type]


def many(n: int, seed: int = 0) -> tuple[list[Preference], list[tuple[float, float]], list[tuple[int, int]]]:
    """Pairs of all sorts with scores and lengths."""
    rng = random.Random(seed)
    pairs, scores, tokens = [], [], []
    for i in range(n):
        safe = rng.choice([(True, True), (True, False), (False, False), (None, None), (True, None)])
        pairs.append(
            pair(
                f"q{i}", source=rng.choice(["one", "two", ""]), kind=rng.choice(["helpful", "safety"]),
                rating=rng.choice(RATINGS), chosen_safe=safe[0], rejected_safe=safe[1],
            )
        )  # fmt: skip
        scores.append((rng.gauss(0.5, 1), rng.gauss(0, 1)) if i % 9 else (0.25, 0.25))
        tokens.append((rng.randint(1, 30), rng.randint(1, 30)))
    return pairs, scores, tokens
