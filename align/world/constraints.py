"""Instructions that hold for a dialogue: what they say, how an answer keeps them, and how that is seen.

A figure, a thought and their like open an answer ("i act as plato: …", "i think of rome: …"), a language greets ("in
french: bonjour! …"), a hobby, a wish and their like close it ("… i love chess.", "… i wish for rain."). What an answer
says of it partly repeats the instruction: a small model finds an unseen name again by the word before it. The kind
``word`` ("… i end with peace.") is held out: demonstrations show how to follow it where it stands, Ghost Attention
never trains on it.

The kinds are four; in a wide world thirty-three, each with names, of which the last are the test's. There any kind but
a language may be about any train name of another ("always dream of plato."), and about the people and lands that
training asks after, lest names be learnt by heart, a kind's with the kind, instead of read. And kinds are many, lest
they be.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from align.records import Constraint
from align.world.language import GREETINGS, World, words

HELD_ENTITIES = 3  # the last of each kind are the test's
HELD_KIND = "word"
# kind: what one does, in the order in which they stand
_OPENING = {
    "figure": "act as", "thought": "think of", "voice": "speak for", "home": "come from", "letter": "write to",
    "walk": "walk to", "seat": "sit by", "view": "look at",
}  # fmt: skip
_CLOSING = {
    "hobby": "love", "wish": "wish for", "dream": "dream of", "song": "sing of", "prayer": "pray for",
    "care": "care for", "vigil": "wait for", "quest": "look for", "longing": "long for", "labor": "work for",
    "vote": "vote for", "rumor": "hear of", "book": "read of", "talk": "talk of", "boast": "boast of",
    "smile": "smile at", "laugh": "laugh at", "trust": "rely on", "bet": "bet on", "game": "play with",
    "company": "live with", "trade": "deal in", "faith": "trust in", "word": "end with",
}  # fmt: skip
_ORDER = (*_CLOSING, "language", *reversed(_OPENING))  # as they are laid on: the figure comes to stand first
SAME_KIND = 0.7  # chance that a mistaken instruction is at least of the right kind
TWO_RULES = 0.2  # chance that a message has two instructions
GREETING = "in"
_FORMS: Mapping[str, tuple[str, str]] = {
    **{kind: (f"always {does} {{e}}.", f"{does} {{e}}.") for kind, does in (_OPENING | _CLOSING).items()},
    "hobby": ("always say that you love {e}.", "hobby: {e}."),
    "language": ("always greet in {e}.", "language: {e}."),
}


def constraint(kind: str, entity: str) -> Constraint:
    """The instruction of a kind about an entity; ``meta`` holds what :func:`kept` needs."""
    full, short = (form.format(e=entity) for form in _FORMS[kind])
    return Constraint(kind=kind, instruction=full, short=short, meta={"kind": kind, "entity": entity})


def constraints(world: World, split: str) -> tuple[Constraint, ...]:
    """Train: the trained kinds with their train names. Test: held-out names of every kind, and the held-out kind."""
    if split == "train":
        return tuple(rule for rule in followable(world) if rule.kind != HELD_KIND)
    return tuple(
        constraint(kind, name)
        for kind, names in world.named.items()
        for name in (names if kind == HELD_KIND else names[-HELD_ENTITIES:])
    )


def followable(world: World) -> tuple[Constraint, ...]:
    """What demonstrations, and a wide world's prompts, show how to follow in the current message.

    That is train names of every kind, a kind's own first; in a wide world any of them.
    """
    own = tuple((kind, names[:-HELD_ENTITIES]) for kind, names in world.named.items())
    named = (*(name for kind, names in own if kind != "language" for name in names), *world.known)
    return _rules(own, named if world.wide else ())


@functools.cache
def _rules(own: tuple[tuple[str, tuple[str, ...]], ...], shared: tuple[str, ...]) -> tuple[Constraint, ...]:
    """Each kind about its own names and then, but for languages, about the shared ones."""
    return tuple(
        constraint(kind, name)
        for kind, names in own
        for name in dict.fromkeys((*names, *(() if kind == "language" else shared)))
    )


def pick(world: World, rules: Sequence[Constraint], rng: random.Random) -> Constraint:
    """Any rule; in a wide world, whose kinds have unlike numbers of names, each kind as often as another."""
    if world.wide:
        kind = rng.choice(list(dict.fromkeys(rule.kind for rule in rules)))
        rules = [rule for rule in rules if rule.kind == kind]
    return rng.choice(rules)


def combine(world: World, rules: Sequence[Constraint], rng: random.Random) -> list[Constraint]:
    """One rule, now and then two of different kinds."""
    first = pick(world, rules, rng)
    others = [rule for rule in rules if rule.kind != first.kind]
    return [first, pick(world, others, rng)] if others and rng.random() < TWO_RULES else [first]


def voiced(rule: Constraint, rng: random.Random) -> str:
    """The instruction, in its full or its short form with even chances."""
    return rule.instruction if rng.random() < 0.5 else rule.short


def join(instruction: str, question: str) -> str:
    """An instruction before a question, in one user message."""
    return f"{instruction} {question}"


def obey(answer: str, rules: Sequence[Mapping[str, Any]]) -> str:
    """An answer changed so that it keeps every rule."""
    for rule in sorted(rules, key=lambda rule: _ORDER.index(rule["kind"])):
        kind, entity = rule["kind"], rule["entity"]
        if kind in _CLOSING:
            answer = f"{answer} i {_CLOSING[kind]} {entity}."
        elif kind in _OPENING:
            answer = f"i {_OPENING[kind]} {entity}: {answer}"
        else:
            answer = f"{GREETING} {entity}: {GREETINGS[entity]}! {answer}"
    return answer


def astray(world: World, rule: Mapping[str, Any], rng: random.Random) -> Mapping[str, Any]:
    """Another rule of the train split, mostly of the same kind: what one obeys who did not listen."""
    kind = rule["kind"] if rng.random() < SAME_KIND else rng.choice(list(world.named))
    others = [name for name in world.named[kind][:-HELD_ENTITIES] if name != rule["entity"]]
    return {"kind": kind, "entity": rng.choice(others)}


def keeps(answer: str, rule: Mapping[str, Any]) -> bool:
    """Whether an answer keeps a rule: its mark stands at the answer's opening or close."""
    kind, entity = rule["kind"], rule["entity"]
    before, rest = _opened(words(answer))
    if kind in _OPENING:
        return (kind, entity) in before
    if kind == "language":
        return rest[:3] == [GREETING, entity, GREETINGS[entity]]
    return (kind, entity) in _closed(rest)


def unmannered(said: list[str]) -> list[str]:
    """The words of an answer without what stands before them: a figure, a thought, a greeting."""
    rest = _opened(said)[1]
    if rest[:1] == [GREETING] and len(rest) > 1 and rest[1] in GREETINGS:
        rest = rest[2:]
    return rest[1:] if rest and rest[0] in GREETINGS.values() else rest


def _opened(said: list[str]) -> tuple[set[tuple[str, str]], list[str]]:
    """The (kind, name) whose marks open an answer, and the words behind them."""
    found = set()
    for kind, does in _OPENING.items():
        stem = ["i", *does.split()]
        if said[: len(stem)] == stem and len(said) > len(stem):
            found.add((kind, said[len(stem)]))
            said = said[len(stem) + 1 :]
    return found, said


def _closed(said: list[str]) -> set[tuple[str, str]]:
    """The (kind, name) whose marks close an answer."""
    found = set()
    for kind, does in reversed(_CLOSING.items()):
        stem = ["i", *does.split()]
        if said[-len(stem) - 1 : -1] == stem:
            found.add((kind, said[-1]))
            said = said[: -len(stem) - 1]
    return found
