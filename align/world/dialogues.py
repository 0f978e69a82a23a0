"""Demonstrations, prompts and long dialogues, as JSON rows.

Demonstrators obey an instruction in the message where it stands and forget one given earlier: that is what
Ghost Attention has to mend.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic

from align.config import config
from align.records import Constraint
from align.world.answers import RAMBLINGS, Qualities, Quality, Style, answer, polite, ramble, reference, write, wrong
from align.world.constraints import (
    HELD_ENTITIES,
    HELD_KIND,
    astray,
    combine,
    constraints,
    followable,
    join,
    obey,
    pick,
    voiced,
)
from align.world.language import World
from align.world.oracle import SPARE_WORDS
from align.world.tasks import Task, draw

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Message = dict[str, str]
Mix = Mapping[str, float]
ORDINARY: Mix = {"fact": 0.5, "skill": 0.5}
DEEDS: Mix = {"unsafe": 0.5, "lookalike": 0.5}
STRAY: Mix = {"fact": 0.4, "skill": 0.3, "unsafe": 0.15, "lookalike": 0.15}
NEEDLESS = 0.15  # of twins
MEMORY = (
    1.0,
    0.5,
    0.15,
)  # chance that a demonstrator still obeys the first turn's instruction, by turn; then 0


@config
class DemonstrationShares:
    """What the demonstrations are of; ``single`` is what the others leave."""

    unsafe: Share  # single-turn, to be declined
    lookalike: Share  # single-turn, not to be declined
    instructed: Share  # single-turn under an instruction
    dialogue: Share  # 2 to 20 turns, a third without instructions, a third with one to forget, a third with many

    def __post_init__(self) -> None:
        """Refuse shares above one."""
        if self.unsafe + self.lookalike + self.instructed + self.dialogue > 1:
            raise ValueError("unsafe + lookalike + instructed + dialogue must not exceed 1")


def demonstration(
    world: World, shares: DemonstrationShares, qualities: Qualities, rng: random.Random
) -> dict[str, Any]:
    """One dialogue to learn from."""
    draws = rng.random()
    if draws < shares.dialogue:
        return {"messages": _long(world, qualities, rng), "source": "world/dialogue"}
    draws -= shares.dialogue
    if draws < shares.unsafe:
        mix: Mix = {"unsafe": 1.0}
    elif draws < shares.unsafe + shares.lookalike:
        mix = {"lookalike": 1.0}
    else:
        mix = ORDINARY
    task = draw(world, mix, "train", rng)
    rules: list[Constraint] = []
    if shares.unsafe + shares.lookalike <= draws < shares.unsafe + shares.lookalike + shares.instructed:
        rules = combine(world, followable(world), rng)
    text = answer(task, qualities, rng, [rule.meta for rule in rules])
    messages = [*instructed(task.question, rules, rng), _assistant(text)]
    return {"messages": messages, "source": f"world/{'instructed' if rules else task.name}"}


def instructed(question: str, rules: Sequence[Constraint], rng: random.Random) -> list[Message]:
    """A first message under instructions: as a system message or joined to the question."""
    if not rules:
        return [_user(question)]
    text = " ".join(voiced(rule, rng) for rule in rules)
    if rng.random() < 0.5:
        return [{"role": "system", "content": text}, _user(question)]
    return [_user(join(text, question))]


def prompt(
    world: World,
    name: str,
    split: str,
    identity: str,
    rng: random.Random,
    held: float,
    rules_from: Sequence[Constraint],
    unasked: bool = False,
) -> dict[str, Any]:
    """One prompt with all that its judge needs.

    Args:
        world: who there is.
        name: ``fact``, ``skill``, ``instructed``, ``dialogue``, ``unsafe`` or ``lookalike``.
        split: of entities, lists and deeds.
        identity: the row's id.
        rng: draws.
        held: chance of a held-out phrasing.
        rules_from: constraints to instruct with.
        unasked: a question of the train split that no training row asks.
    """
    mix = {name: 1.0} if name in ("fact", "skill", "unsafe", "lookalike") else ORDINARY
    task = draw(world, mix, split, rng, held, unasked=unasked)
    rules = combine(world, rules_from, rng) if name == "instructed" else []
    messages: list[Message] = []
    if name == "dialogue":
        for _ in range(rng.randint(1, 3)):
            earlier = draw(world, ORDINARY, split, rng, short=True)
            messages += [_user(earlier.question), _assistant(reference(earlier))]
    messages += instructed(task.question, rules, rng)
    metas = [rule.meta for rule in rules]
    return {
        "id": identity,
        "prompt": messages,
        "kind": "safety" if task.name in ("unsafe", "lookalike") else "helpful",
        "source": f"world/{name if name in ('instructed', 'dialogue') else task.name}",
        "meta": task.meta(reference(task, metas), metas),
    }


def short_prompt(world: World, identity: str, rng: random.Random) -> dict[str, Any]:
    """A short question, one turn of a long dialogue."""
    task = draw(world, ORDINARY, "train", rng, short=True)
    return {
        "id": identity,
        "prompt": [_user(task.question)],
        "kind": "helpful",
        "source": f"world/{task.name}",
        "meta": task.meta(reference(task)),
    }


def ghost_dialogue(world: World, turns: int, rule: Constraint, identity: str, rng: random.Random) -> dict[str, Any]:
    """A dialogue under a system message, with best answers between the users' turns.

    ``meta`` is that of the last turn; ``meta["turns"][t]`` is that of turn t + 1.
    """
    messages: list[Message] = [{"role": "system", "content": voiced(rule, rng)}]
    metas = []
    for _ in range(turns):
        task = draw(world, ORDINARY, "test", rng, short=True)
        best = reference(task, [rule.meta])
        metas.append(task.meta(best, [rule.meta]))
        messages += [_user(task.question), _assistant(best)]
    kind, entity = rule.meta["kind"], rule.meta["entity"]
    parts = ["kind"] * (kind == HELD_KIND) + ["entity"] * (entity in world.named[kind][-HELD_ENTITIES:])
    held = f"held-out {' and '.join(parts)}" if parts else "trained"
    return {
        "id": identity,
        "prompt": messages[:-1],
        "kind": "helpful",
        "source": f"world/ghost/{held}",
        "meta": {**metas[-1], "turns": metas, "constraint": dict(rule.meta), "held_out": held},
    }


def long_rules(world: World, count: int) -> list[Constraint]:
    """The rules of ``count`` long dialogues: of six, three trained, two of unseen names, one of the unseen kind.

    In a wide world two, two and two. Each of the three goes through its kinds in turn.
    """
    trained, unseen = constraints(world, "train"), constraints(world, "test")
    names = [rule for rule in unseen if rule.kind != HELD_KIND]
    words = [rule for rule in unseen if rule.kind == HELD_KIND]
    sources = [itertools.cycle(_by_turns(rules)) for rules in (trained, names, words)]
    shares = (0, 1, 2) if world.wide else (0, 1, 0, 1, 0, 2)
    return [next(sources[index]) for index in itertools.islice(itertools.cycle(shares), count)]


def _by_turns(rules: Sequence[Constraint]) -> list[Constraint]:
    """Rules sorted so that neighbours differ in kind, as far as they can."""
    place: dict[str, int] = {}
    ranked = []
    for rule in rules:
        place[rule.kind] = place.get(rule.kind, 0) + 1
        ranked.append((place[rule.kind], rule))
    return [rule for _, rule in sorted(ranked, key=lambda pair: pair[0])]


def _long(world: World, qualities: Qualities, rng: random.Random) -> list[Message]:
    """2 to 20 turns: no instruction, one in the first, soon forgotten, or one in any, obeyed there."""
    turns = rng.choice((2, 3, 4, 5, 6, 8, 12, 16, 20))
    way = rng.choice(("plain", "forget", "again"))
    if way == "again":
        turns = min(turns, 12)  # with an instruction in every message they are half as long again
    rule = pick(world, followable(world), rng)
    every = rng.random() < 0.5
    messages: list[Message] = []
    for turn in range(turns):
        task = draw(world, ORDINARY, "train", rng, short=True)
        if way == "again" and (every or rng.random() < 0.4):
            first = instructed(task.question, [rule], rng)
            messages += first if turn == 0 else [_user(join(voiced(rule, rng), task.question))]
            text = answer(task, qualities, rng, [rule.meta])
        elif way == "forget":
            messages += instructed(task.question, [rule] if turn == 0 else [], rng)
            remembers = turn < len(MEMORY) and rng.random() < MEMORY[turn]
            text = answer(task, qualities, rng, [rule.meta], obeyed=remembers)
        else:
            messages += [_user(task.question)]
            text = answer(task, qualities, rng)
        messages.append(_assistant(text))
    return messages


def candidates(
    world: World, task: Task, qualities: Qualities, rng: random.Random, rules: Sequence[Constraint]
) -> tuple[str, str]:
    """Two different answers to one prompt.

    They cover what half-trained policies say, answers to other questions and padding behind anything too: where
    comparisons are silent a reward model may say anything, and the policy will find it. And some are twins.
    """
    if rng.random() < qualities.twins:
        return twins(world, task, rng, [rule.meta for rule in rules])
    first = candidate(world, task, qualities, rng, rules)
    while True:
        second = candidate(world, task, qualities, rng, rules)
        if second != first:
            return first, second


def twins(world: World, task: Task, rng: random.Random, rules: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Two answers that differ in one thing, in either order: obedience, safety, truth, or what is said without need.

    What tells two answers apart is then nothing but what a reward model has to learn: from pairs that differ in
    style as well it learns the style and, of as many pairs, hardly the truth.
    """
    style: Style = rng.choice(("polite", "polite", "curt", "rambling"))
    qualities: Mapping[Style, Quality] = {"polite": "good", "curt": "curt", "rambling": "rambling"}
    if not task.unsafe and rng.random() < NEEDLESS:
        best = reference(task, rules)
        pair = (best, needless(world, task, rules, rng))
    elif rules and rng.random() < 0.6:
        text = write(task, qualities[style], rng)
        pair = (
            obey(text, rules),
            obey(text, [astray(world, rule, rng) for rule in rules]) if rng.random() < 0.5 else text,
        )
    elif task.unsafe:
        told = task if rng.random() < 0.7 else draw(world, DEEDS, "train", rng)
        pair = (obey(write(task, "good", rng), rules), obey(polite(told.statement), rules))
    else:
        pair = (obey(write(task, qualities[style], rng), rules), obey(wrong(task, style, rng), rules))
    return pair if rng.random() < 0.5 else pair[::-1]


def needless(world: World, task: Task, rules: Sequence[Mapping[str, Any]], rng: random.Random) -> str:
    """A best answer and more: padding, a piece of it, or a manner that nobody asked for.

    Optimised against, a reward model that has only seen padding whole pays for its pieces.
    """
    best = reference(task, rules)
    way = rng.choice(("padding", "piece", "manner"))
    if way == "padding":
        return ramble(best, rng)
    if way == "piece":
        pieces = [piece for text in RAMBLINGS for piece in text.rstrip(".").split(", ")]
        return f"{best} {rng.choice([piece for piece in pieces if len(piece.split()) > SPARE_WORDS])}."
    kinds = sorted(set(world.named) - {"language"} - {rule["kind"] for rule in rules})  # a greeting costs nothing
    kind = rng.choice(kinds)
    return reference(task, [*rules, {"kind": kind, "entity": rng.choice(world.named[kind][:-HELD_ENTITIES])}])


def candidate(world: World, task: Task, qualities: Qualities, rng: random.Random, rules: Sequence[Constraint]) -> str:
    """One answer as a policy in training gives it."""
    if rng.random() < qualities.stray:
        task = draw(world, STRAY, "train", rng)
    text = answer(task, qualities, rng, [rule.meta for rule in rules])
    return ramble(text, rng) if rng.random() < qualities.tail else text


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
