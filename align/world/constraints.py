"""Instructions that hold for a dialogue: what they say, how an answer keeps them, and how that is seen.

A figure opens the answer ("napoleon says: …"), a language greets ("bonjour! …"), a hobby and a last word close it
("… i love chess.", "… peace."). The kind ``word`` is held out: demonstrations teach to follow it where it stands,
Ghost Attention never trains on it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from align.records import Constraint
from align.world.language import words

GREETINGS: Mapping[str, str] = {
    "french": "bonjour", "german": "hallo", "spanish": "hola", "italian": "ciao", "swedish": "hej", "latin": "salve",
    "finnish": "moi", "turkish": "merhaba", "czech": "ahoj", "hawaiian": "aloha", "hebrew": "shalom",
    "swahili": "jambo", "hindi": "namaste",
}  # fmt: skip
# kind: entities; the last HELD_ENTITIES of each kind are the test's
ENTITIES: Mapping[str, tuple[str, ...]] = {
    "figure": (
        "napoleon", "caesar", "plato", "homer", "darwin", "newton", "mozart", "bach", "kepler", "gandhi", "lincoln",
        "cicero", "dante", "euler", "galileo", "chopin", "tesla",
    ),
    "hobby": (
        "chess", "tennis", "poker", "yoga", "golf", "opera", "ballet", "judo", "surfing", "fishing", "knitting",
        "skating", "boxing", "hiking", "sailing", "rugby", "karate",
    ),
    "language": tuple(GREETINGS),
    "word": ("peace", "amen", "cheers", "goodbye", "hooray", "bravo"),
}  # fmt: skip
HELD_ENTITIES = 3
HELD_KIND = "word"
_FORMS: Mapping[str, tuple[str, str]] = {
    "figure": ("always act as {e}.", "figure: {e}."),
    "hobby": ("always say that you love {e}.", "hobby: {e}."),
    "language": ("always greet in {e}.", "language: {e}."),
    "word": ("always end with {e}.", "word: {e}."),
}


def constraint(kind: str, entity: str) -> Constraint:
    """The instruction of a kind about an entity; ``meta`` holds what :func:`kept` needs."""
    full, short = (form.format(e=entity) for form in _FORMS[kind])
    return Constraint(kind=kind, instruction=full, short=short, meta={"kind": kind, "entity": entity})


def constraints(split: str) -> list[Constraint]:
    """Train: the trained kinds with their train entities. Test: held-out entities, and the held-out kind whole."""
    found = []
    for kind, entities in ENTITIES.items():
        if split == "train":
            chosen: Sequence[str] = () if kind == HELD_KIND else entities[:-HELD_ENTITIES]
        else:
            chosen = entities if kind == HELD_KIND else entities[-HELD_ENTITIES:]
        found.extend(constraint(kind, entity) for entity in chosen)
    return found


def followable() -> list[Constraint]:
    """What demonstrations show how to follow in the current message: train entities of every kind."""
    return [constraint(kind, entity) for kind, names in ENTITIES.items() for entity in names[:-HELD_ENTITIES]]


def said(rule: Constraint, rng: random.Random) -> str:
    """The instruction, in its full or its short form with even chances."""
    return rule.instruction if rng.random() < 0.5 else rule.short


def join(instruction: str, question: str) -> str:
    """An instruction before a question, in one user message."""
    return f"{instruction} {question}"


def obey(answer: str, rules: Sequence[Mapping[str, Any]]) -> str:
    """An answer changed so that it keeps every rule."""
    for rule in sorted(
        rules, key=lambda rule: rule["kind"], reverse=True
    ):  # so the figure comes to stand first
        entity = rule["entity"]
        if rule["kind"] == "hobby":
            answer = f"{answer} i love {entity}."
        elif rule["kind"] == "word":
            answer = f"{answer} {entity}."
        elif rule["kind"] == "language":
            answer = f"{GREETINGS[entity]}! {answer}"
        else:
            answer = f"{entity} says: {answer}"
    return answer


def keeps(answer: str, rule: Mapping[str, Any]) -> bool:
    """Whether an answer keeps a rule: its mark stands at the answer's opening or close, and in one place only."""
    said_words = words(answer)
    entity = rule["entity"]
    if rule["kind"] == "figure":
        return said_words[:2] == [entity, "says"]
    if rule["kind"] == "language":
        return GREETINGS[entity] in said_words[:3]  # a figure may stand before it
    if rule["kind"] == "hobby":
        return [*said_words[-4:]][-3:] == ["i", "love", entity] or said_words[-4:-1] == ["i", "love", entity]
    return said_words[-1:] == [entity] or said_words[-4:-3] == [entity]  # a hobby may stand behind it
