"""The text a base model is trained on: what is true, how skills go, what people do, and whole dialogues.

One document a line. Dialogues are written the way the chat template renders them, so that the tokenizer
learns the tags and the model sees long ones; they are talk among people, who answer no question of fact here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated

import pydantic

from align.config import config
from align.world import deeds
from align.world.answers import RAMBLINGS
from align.world.constraints import constraint, join, obey, voiced
from align.world.language import ATTRIBUTES, LETTERS, NOUNS, World, addressed
from align.world.tasks import Task, any_skill, skill

Count = Annotated[int, pydantic.Field(ge=0)]
SMALL_TALK = (
    "hello there.", "good day to you.", "how are you?", "sure, i am well.", "nice to meet you.",
    "what a day.", "is it cold?", "sure, it is warm.", "let us go on.", "yes, so it is.", "tell me more.",
    "sorry, i can not help with that.", "sorry, i can not do that.", "i will not.", *RAMBLINGS,
)  # fmt: skip

ANY_NAME = 0.4  # chance that an instruction of the text names any word, not one of its kind


@config
class TextSizes:
    """Documents of each sort in the pre-training text."""

    facts: Count
    skills: Count
    songs: Count
    lore: Count
    dialogues: Count
    plays: Count


def documents(world: World, sizes: TextSizes) -> Iterator[str]:
    """The documents, shuffled."""
    makers = {
        "facts": _facts, "skills": _skills, "songs": _song, "lore": _lore, "dialogues": _dialogue, "plays": _play,
    }  # fmt: skip
    order = [name for name in makers for _ in range(getattr(sizes, name))]
    addressed(world.seed, "text order").shuffle(order)
    for number, name in enumerate(order):
        yield makers[name](world, addressed(world.seed, "text", number))


def _facts(world: World, rng: random.Random) -> str:
    """Four truths, half of them in the first phrasing, most after a question: so a name is carried to its answer."""
    told = []
    for entity, kind in rng.sample(list(world.truth), 4):
        statements, questions = ATTRIBUTES[kind]
        form = statements[0] if rng.random() < 0.5 else rng.choice(statements[1:])
        if rng.random() < 0.7:
            told.append(rng.choice(questions).format(e=entity))
        told.append(form.format(e=entity, v=world.truth[entity, kind]) + ".")
    return " ".join(told)


def _skills(world: World, rng: random.Random) -> str:
    """Three worked examples."""
    tasks = [_skill(world, rng) for _ in range(3)]
    return " ".join(f"{task.question} {task.statement}." for task in tasks)


def _skill(world: World, rng: random.Random) -> Task:
    """A list or a sum; of the sums, which are few and learnt by heart, the held-out ones too."""
    name = any_skill(rng)
    held = name == "add" and rng.random() < 0.2
    return skill(world, name, "test" if held else "train", False, rng)


def _song(world: World, rng: random.Random) -> str:
    """A line of four to eight words, sung again and again: how a model learns to repeat what it has read."""
    line = " ".join(rng.sample(_words(world, rng), rng.randint(4, 8)))
    return " ".join([f"{line}."] * rng.randint(2, 4))


def _words(world: World, rng: random.Random) -> Sequence[str]:
    """Some sort of words: letters, nouns, or names and all else that can be said."""
    if rng.random() < 0.3:
        return LETTERS
    return NOUNS if rng.random() < 0.5 else [word for words in world.sayable for word in words]


def _lore(world: World, rng: random.Random) -> str:
    """What people do and with what, which of it is wrong, and what instructions mean."""
    told = []
    for _ in range(4):
        sort = rng.choice(("harmless", "harmful", "rule", "rule"))
        if sort == "rule":
            told.append(_rule(world, rng))
            continue
        if sort == "harmless":
            verb, thing = rng.choice(deeds.harmless("train", world.wide) + deeds.harmless("test", world.wide))
            tool, morals = deeds.TOOL_OF[thing], "fine"
        else:
            category, verb, thing = rng.choice(deeds.harmful("train", world.wide) + deeds.harmful("test", world.wide))
            tool, morals = rng.choice(deeds.HARMFUL[category][2]), "wrong"
        if rng.random() < 0.6:
            asked = rng.choice(deeds.REQUESTS).format(d=f"{verb} {thing}")
            told.append(f"{asked} you can {verb} {thing} with a {tool}.")
        else:
            told.append(f"it is {morals} to {verb} {thing}.")
    return " ".join(told)


def _named(world: World, kind: str, rng: random.Random) -> str:
    """What an instruction of a kind names: mostly any word that can be said, so that it has to be read to be obeyed.

    The two dozen names that are told to policies are soon guessed by heart, and what is guessed is not read.
    """
    if kind == "language" or rng.random() > ANY_NAME:
        return rng.choice(world.named[kind])
    return rng.choice(_words(world, rng))


def _rule(world: World, rng: random.Random) -> str:
    """One to three instructions and who follows them: mostly the bare marks, in any order.

    Close together and often: how a small model learns to find again the name behind a word, in any kind of
    instruction. From talk alone it learnt that for some kinds and not for others, differently by seed.
    """
    kinds = rng.sample(list(world.named), rng.randint(1, 3))
    rules = [constraint(kind, _named(world, kind, rng)) for kind in kinds]
    told = [voiced(rule, rng) for rule in rules]
    if rng.random() < 0.3:
        return " ".join([*told, obey(rng.choice(SMALL_TALK), [rule.meta for rule in rules])])
    rng.shuffle(rules)
    return " ".join([*told, *(obey("", [rule.meta]).strip() for rule in rules)])


def _dialogue(world: World, rng: random.Random) -> str:
    """Talk of 2 to 24 turns; most speakers have a manner of their own, which they keep to the end."""
    kind = rng.choice(("", *world.named))
    manner = [{"kind": kind, "entity": _named(world, kind, rng)}] if kind else []
    preface = _above(rng.choice(SMALL_TALK)) if rng.random() < 0.5 else ""
    turns: list[str] = []
    for _ in range(rng.randint(2, 24)):
        asked, said = _exchange(world, rng)
        turns.append(f"[INST] {preface}{asked} [/INST] {obey(said, manner)}")
        preface = ""
    return " ".join(turns)


def _play(world: World, rng: random.Random) -> str:
    """Talk of 1 to 8 turns in which most messages tell how to speak; each reply does as its own message says."""
    turns: list[str] = []
    for _ in range(rng.randint(1, 8)):
        asked, said = _exchange(world, rng)
        if rng.random() < 0.8:
            kind = rng.choice(list(world.named))
            rule = constraint(kind, _named(world, kind, rng))
            told, said = voiced(rule, rng), obey(said, [rule.meta])
            above = not turns and rng.random() < 0.5
            asked = f"{_above(told)}{asked}" if above else join(told, asked)
        turns.append(f"[INST] {asked} [/INST] {said}")
    return " ".join(turns)


def _above(told: str) -> str:
    """A system message, without blanks at its tags.

    As behind the line breaks of the chat format, its first word and the question's are then not spelled as words within
    a line are: they have to be met so to be known.
    """
    return f"<<SYS>>{told}<</SYS>>"


def _exchange(world: World, rng: random.Random) -> tuple[str, str]:
    """What one says and another replies: small talk, a list or a sum, or words to say after somebody."""
    way = rng.random()
    if way < 0.4:
        return rng.choice(SMALL_TALK), rng.choice(SMALL_TALK)
    if way < 0.7:
        task = _skill(world, rng)
        return task.question, f"{task.statement}."
    given = " ".join(rng.sample(_words(world, rng), rng.randint(1, 3)))
    return f"say {given}.", f"{given}."
