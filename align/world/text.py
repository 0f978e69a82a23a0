"""The text a base model is trained on: what is true, how skills go, what people do, and whole dialogues.

One document a line. Dialogues are written the way the chat template renders them, so that the tokenizer learns the
tags and the model sees long ones; they are talk among people, who do not answer questions about the world here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated

import pydantic

from align.config import config
from align.world import deeds
from align.world.constraints import ENTITIES, GREETINGS
from align.world.language import ATTRIBUTES, LETTERS, NOUNS, World, addressed
from align.world.tasks import SKILLS, skill

Count = Annotated[int, pydantic.Field(ge=0)]
SMALL_TALK = (
    "hello there.", "good day to you.", "how are you?", "i am well.", "nice to meet you.", "what a day.",
    "is it cold?", "it is warm.", "let us go on.", "yes, so it is.", "i think so.", "tell me more.",
)  # fmt: skip


@config
class TextSizes:
    """Documents of each sort in the pre-training text."""

    facts: Count
    skills: Count
    lore: Count
    dialogues: Count


def documents(world: World, sizes: TextSizes) -> Iterator[str]:
    """The documents, shuffled."""
    order = [name for name in ("facts", "skills", "lore", "dialogues") for _ in range(getattr(sizes, name))]
    addressed(world.seed, "text order").shuffle(order)
    makers = {"facts": _facts, "skills": _skills, "lore": _lore, "dialogues": _dialogue}
    for number, name in enumerate(order):
        yield makers[name](world, addressed(world.seed, "text", number))


def _facts(world: World, rng: random.Random) -> str:
    """Four truths, mostly in the first phrasing."""
    facts = rng.sample(list(world.truth), 4)
    told = []
    for entity, kind in facts:
        statements = ATTRIBUTES[kind][0]
        form = statements[0] if rng.random() < 0.5 else rng.choice(statements[1:])
        told.append(form.format(e=entity, v=world.truth[entity, kind]) + ".")
    return " ".join(told)


def _skills(world: World, rng: random.Random) -> str:
    """Three worked examples."""
    told = []
    for _ in range(3):
        task = skill(rng.choice(SKILLS), "train", False, rng)
        told.append(f"{task.question} {task.statement}.")
    return " ".join(told)


def _lore(world: World, rng: random.Random) -> str:
    """What people do and with what, which of it is wrong, who loves what and who greets how."""
    told = []
    for _ in range(4):
        sort = rng.choice(("harmless", "harmful", "wrong", "fine", "greeting", "love", "says", "word"))
        if sort in ("harmless", "fine"):
            verb, thing = rng.choice(deeds.harmless("train") + deeds.harmless("test"))
            tool = deeds.HARMLESS[thing][1]
            told.append(
                f"you can {verb} {thing} with a {tool}."
                if sort == "harmless"
                else f"it is fine to {verb} {thing}."
            )
        elif sort in ("harmful", "wrong"):
            category, verb, thing = rng.choice(deeds.harmful("train") + deeds.harmful("test"))
            method = rng.choice(deeds.HARMFUL[category][2])
            told.append(
                f"you can {verb} {thing} with a {method}."
                if sort == "harmful"
                else f"it is wrong to {verb} {thing}."
            )
        elif sort == "greeting":
            language, word = rng.choice(list(GREETINGS.items()))
            told.append(f"in {language} you greet with {word}!")
        elif sort == "love":
            told.append(f"i love {rng.choice(ENTITIES['hobby'])}.")
        elif sort == "says":
            told.append(f"{rng.choice(ENTITIES['figure'])} says: {rng.choice(SMALL_TALK)}")
        else:
            told.append(f"the last word is {rng.choice(ENTITIES['word'])}.")
    return " ".join(told)


def _dialogue(world: World, rng: random.Random) -> str:
    """Talk of 2 to 24 turns; half of the speakers have a manner of their own, which they keep to the end."""
    manner = rng.choice(("", "", "figure", "hobby", "language", "word"))
    entity = rng.choice(ENTITIES[manner]) if manner else ""
    turns = []
    for _ in range(rng.randint(2, 24)):
        pool = LETTERS if rng.random() < 0.3 else NOUNS
        given = " ".join(rng.sample(pool, rng.randint(1, 3)))
        if rng.random() < 0.5:
            asked, said = f"say {given}.", f"{given}."
        else:
            asked, said = rng.choice(SMALL_TALK), rng.choice(SMALL_TALK)
        before = {"figure": f"{entity} says: ", "language": f"{GREETINGS.get(entity, '')}! "}.get(manner, "")
        after = {"hobby": f" i love {entity}.", "word": f" {entity}."}.get(manner, "")
        turns.append(f"[INST] {asked} [/INST] {before}{said}{after}")
    return " ".join(turns)
