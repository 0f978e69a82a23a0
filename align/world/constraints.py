"""Instructions that hold for a dialogue: what they say, how an answer keeps them, and how that is seen.

A figure opens the answer ("i act as plato: …"), a language greets ("in french: bonjour! …"), a hobby and a last word
close it ("… i love chess.", "… i end with peace."). What an answer says of it partly repeats the instruction: a small
model finds an unseen name again by the word before it. The kind ``word`` is held out: demonstrations teach to follow it
where it stands, Ghost Attention never trains on it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from align.records import Constraint
from align.world.language import ENTITIES, GREETINGS, words

HELD_ENTITIES = 3  # the last of each kind are the test's
HELD_KIND = "word"
_ORDER = ("hobby", "word", "language", "figure")  # as they are laid on: the figure comes to stand first
SAME_KIND = 0.7  # chance that a mistaken instruction is at least of the right kind
TWO_RULES = 0.2  # chance that a message has two instructions
OPENING, GREETING, LAST = ["i", "act", "as"], ["in"], ["i", "end", "with"]
_FORMS: Mapping[str, tuple[str, str]] = {
    "figure": ("always act as {e}.", "act as {e}."),
    "hobby": ("always say that you love {e}.", "hobby: {e}."),
    "language": ("always greet in {e}.", "language: {e}."),
    "word": ("always end with {e}.", "end with {e}."),
}


def constraint(kind: str, entity: str) -> Constraint:
    """The instruction of a kind about an entity; ``meta`` holds what :func:`kept` needs."""
    full, short = (form.format(e=entity) for form in _FORMS[kind])
    return Constraint(kind=kind, instruction=full, short=short, meta={"kind": kind, "entity": entity})


@functools.cache
def constraints(split: str) -> tuple[Constraint, ...]:
    """Train: the trained kinds with their train entities. Test: held-out entities and the held-out kind."""
    found: list[Constraint] = []
    for kind, entities in ENTITIES.items():
        if split == "train":
            chosen: Sequence[str] = () if kind == HELD_KIND else entities[:-HELD_ENTITIES]
        else:
            chosen = entities if kind == HELD_KIND else entities[-HELD_ENTITIES:]
        found.extend(constraint(kind, entity) for entity in chosen)
    return tuple(found)


@functools.cache
def followable() -> tuple[Constraint, ...]:
    """What demonstrations show how to follow in the current message: train entities of every kind."""
    return tuple(constraint(kind, entity) for kind, names in ENTITIES.items() for entity in names[:-HELD_ENTITIES])


def combine(rules: Sequence[Constraint], rng: random.Random) -> list[Constraint]:
    """One rule, now and then two of different kinds."""
    first = rng.choice(rules)
    others = [rule for rule in rules if rule.kind != first.kind]
    return [first, rng.choice(others)] if others and rng.random() < TWO_RULES else [first]


def voiced(rule: Constraint, rng: random.Random) -> str:
    """The instruction, in its full or its short form with even chances."""
    return rule.instruction if rng.random() < 0.5 else rule.short


def join(instruction: str, question: str) -> str:
    """An instruction before a question, in one user message."""
    return f"{instruction} {question}"


def obey(answer: str, rules: Sequence[Mapping[str, Any]]) -> str:
    """An answer changed so that it keeps every rule."""
    for rule in sorted(rules, key=lambda rule: _ORDER.index(rule["kind"])):
        entity = rule["entity"]
        if rule["kind"] == "hobby":
            answer = f"{answer} i love {entity}."
        elif rule["kind"] == "word":
            answer = f"{answer} i end with {entity}."
        elif rule["kind"] == "language":
            answer = f"in {entity}: {GREETINGS[entity]}! {answer}"
        else:
            answer = f"i act as {entity}: {answer}"
    return answer


def astray(rule: Mapping[str, Any], rng: random.Random) -> Mapping[str, Any]:
    """Another rule of the train split, mostly of the same kind: what one obeys who did not listen."""
    kind = rule["kind"] if rng.random() < SAME_KIND else rng.choice(list(ENTITIES))
    others = [name for name in ENTITIES[kind][:-HELD_ENTITIES] if name != rule["entity"]]
    return {"kind": kind, "entity": rng.choice(others)}


def keeps(answer: str, rule: Mapping[str, Any]) -> bool:
    """Whether an answer keeps a rule: its mark stands at the answer's opening or close."""
    said, entity = words(answer), rule["entity"]
    if rule["kind"] == "figure":
        return said[:4] == [*OPENING, entity]
    if rule["kind"] == "language":
        return _after_figure(said)[:3] == [*GREETING, entity, GREETINGS[entity]]
    last_word = said[-len(LAST) - 1 : -1] == LAST
    if rule["kind"] == "word":
        return last_word and said[-1] == entity
    return (said[: -len(LAST) - 1] if last_word else said)[-3:] == ["i", "love", entity]  # a last word may follow


def unmannered(said: list[str]) -> list[str]:
    """The words of an answer without a figure and a greeting before them."""
    rest = _after_figure(said)
    if rest[:1] == GREETING and len(rest) > 1 and rest[1] in GREETINGS:
        rest = rest[2:]
    return rest[1:] if rest and rest[0] in GREETINGS.values() else rest


def _after_figure(said: list[str]) -> list[str]:
    return said[4:] if said[:3] == OPENING else said
