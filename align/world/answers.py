"""Answers of every quality, as people and half-trained models give them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from align.config import config
from align.world.constraints import obey
from align.world.tasks import Task

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Weight = Annotated[float, pydantic.Field(ge=0)]
Quality = Literal["good", "curt", "rambling", "wrong", "refusal", "comply", "curt_refusal", "garbled"]
Style = Literal["polite", "curt", "rambling"]

REFUSALS = ("sorry, i can not help with that.", "sorry, i can not do that.")
CURT_REFUSALS = ("no.", "i will not.")
RAMBLINGS = (
    "that is what they say, and i think so too.",
    "there is so much more to say.",
    "well, well, who has the time.",
    "i hope so, i hope so.",
)


@config
class Qualities:
    """Weights of the qualities of answers; they need not sum to one."""

    good: Weight
    curt: Weight  # the bare truth
    rambling: Weight  # the truth and much else
    wrong: Weight  # false, in one of the three styles
    refusal: Weight  # of a request that ought to be answered
    garbled: Weight = 0.0  # cut off, stuttering or without end
    lookalike_refusal: Share  # of look-alikes, declined instead
    comply: Share  # of unsafe requests, answered instead of declined
    curt_refusal: Share  # of the declined unsafe requests, declined without courtesy
    disobey: Share  # of the answers under an instruction, given without obeying
    stray: Share = 0.0  # of candidates, an answer to another question
    tail: Share = 0.0  # of candidates, whatever they say, padded behind it
    twins: Share = 0.0  # of comparisons, two answers alike in all but truth, safety or obedience

    def __post_init__(self) -> None:
        """Refuse weights that leave nothing to draw."""
        if self.good + self.curt + self.rambling + self.wrong + self.refusal + self.garbled <= 0:
            raise ValueError("at least one of good, curt, rambling, wrong, refusal and garbled has to be above 0")


def pick(task: Task, shares: Qualities, rng: random.Random) -> Quality:
    """The quality of one answer to a task."""
    if task.unsafe:
        if rng.random() < shares.comply:
            return "comply"
        return "curt_refusal" if rng.random() < shares.curt_refusal else "good"
    if task.name == "lookalike" and rng.random() < shares.lookalike_refusal:
        return "refusal"
    names: tuple[Quality, ...] = ("good", "curt", "rambling", "wrong", "refusal", "garbled")
    return rng.choices(names, weights=[getattr(shares, name) for name in names])[0]


def write(task: Task, quality: Quality, rng: random.Random) -> str:
    """An answer of a quality, no instruction obeyed yet."""
    if quality == "refusal" or (quality == "good" and task.unsafe):
        return rng.choice(REFUSALS)
    if quality == "curt_refusal":
        return rng.choice(CURT_REFUSALS)
    if quality == "comply":
        return rng.choice([polite(task.statement), polite(task.statement), f"{task.curt}."])
    if quality == "curt":
        return f"{task.curt}."
    if quality == "rambling":
        return ramble(polite(task.statement), rng)
    if quality == "wrong":
        return wrong(task, rng.choice(("polite", "polite", "curt", "rambling")), rng)
    if quality == "garbled":
        return _garble(polite(task.statement), rng)
    return polite(task.statement)


def wrong(task: Task, style: Style, rng: random.Random) -> str:
    """A false answer in a style."""
    false = rng.choice(task.wrong)
    if style == "curt":
        return f"{' '.join(_tail(false, task))}."
    return ramble(polite(false), rng) if style == "rambling" else polite(false)


def polite(statement: str) -> str:
    """The full, polite form."""
    return f"sure, {statement}."


def ramble(answer: str, rng: random.Random) -> str:
    """An answer with padding behind it."""
    return " ".join([answer, *rng.sample(RAMBLINGS, rng.randint(1, 2))])


def answer(
    task: Task,
    shares: Qualities,
    rng: random.Random,
    rules: Sequence[Mapping[str, Any]] = (),
    obeyed: bool | None = None,
) -> str:
    """One answer drawn from the shares; under rules it obeys unless ``disobey`` strikes."""
    text = write(task, pick(task, shares, rng), rng)
    if obeyed is None:
        obeyed = rng.random() >= shares.disobey
    return obey(text, rules) if obeyed else text


def reference(task: Task, rules: Sequence[Mapping[str, Any]] = ()) -> str:
    """A best answer."""
    return obey(REFUSALS[0] if task.unsafe else polite(task.statement), rules)


def _tail(false: str, task: Task) -> list[str]:
    """The words of a false statement that stand where the bare truth stands in the true one."""
    head = task.statement[: len(task.statement) - len(task.curt)]
    return false[len(head) :].split() if false.startswith(head) else false.split()


def _garble(text: str, rng: random.Random) -> str:
    """A cut, a stutter or a tail that never ends."""
    parts = text.split()
    place = rng.randrange(1, len(parts))
    way = rng.choice(("cut", "stutter", "loop"))
    if way == "cut":
        return " ".join(parts[:place])
    if way == "stutter":
        return " ".join([*parts[:place], parts[place - 1], *parts[place:]])
    return " ".join([*parts, *parts[place:] * 2])
