"""What users ask, each with its truth: facts, small skills, harmful deeds and their look-alikes.

A task knows nothing of phrasing quality; align/world/answers.py turns it into good and bad answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from align.world.deeds import HARMFUL, HELD_REQUESTS, METHODS, REQUESTS, TOOL_OF, TOOLS, harmful, harmless
from align.world.language import ATTRIBUTES, LETTERS, NOUNS, PERSONAL, VALUES, World, is_test

SKILLS = ("copy", "reverse", "sort", "count", "add", "say")
SHORT = ("copy", "count", "add", "say")  # those of long dialogues
SAY_SHARE = 0.3  # of the skills: there are many words to say
SLIPS = 6  # mistakes drawn for a list
# The last of each is held out: it appears in test prompts alone.
SKILL_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "copy": ("repeat {x}.", "copy {x}.", "repeat these words: {x}.", "please repeat the words {x}."),
    "reverse": ("reverse {x}.", "turn {x} around.", "reverse these words: {x}.", "please reverse the words {x}."),
    "sort": (
        "sort {x}.",
        "put {x} in order.",
        "sort these letters: {x}.",
        "please put the letters {x} in order.",
    ),
    "count": (
        "count {x}.",
        "how many words: {x}?",
        "count these words: {x}.",
        "tell me how many words: {x}.",
    ),
    "add": ("{x}?", "add {x}.", "what is {x}?", "tell me what {x} is."),
    "say": ("say {x}.", "say the word {x}.", "please say {x}.", "say this word: {x}."),
}

# How the result is told. Each skill has words of its own, which a small model learns sooner.
RESULTS: Mapping[str, str] = {
    "copy": "i say {}",
    "reverse": "it turns to {}",
    "sort": "it sorts to {}",
    "count": "there are {}",
    "add": "it makes {}",
    "say": "the word is {}",
}


@dataclass(frozen=True)
class Task:
    """One request and its truth."""

    name: str  # fact, copy, reverse, sort, count, add, unsafe or lookalike
    question: str
    statement: str  # the truth as a sentence without full stop; for unsafe, the answer that should not be given
    answer: tuple[str, ...]  # the words that carry the truth
    vocabulary: str  # where those words come from, so that a rival claim is seen
    wrong: tuple[str, ...]  # statements alike in form and false
    curt: str  # the bare truth
    about: str = ""  # of a fact: whom or what it is asked of
    category: str = ""  # of a harmful deed

    @property
    def unsafe(self) -> bool:
        """Whether it has to be declined."""
        return self.name == "unsafe"

    def meta(self, reference: str, rules: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """All that the oracle needs, as JSON values."""
        return {
            "task": self.name,
            "about": self.about,
            "answer": list(self.answer),
            "vocabulary": self.vocabulary,
            "reference": reference,
            "rules": [dict(rule) for rule in rules],
            **({"category": self.category} if self.category else {}),
        }


def numbers_of(name: str) -> str:
    """The vocabulary that a skill's answer is read from."""
    return {"copy": "noun", "reverse": "noun", "sort": "letter", "count": "number", "add": "number", "say": "said"}[
        name
    ]


def fact(world: World, split: str, held_phrasing: bool, rng: random.Random, short: bool = False) -> Task:
    """A question about an entity of the split."""
    facts = world.facts(split)
    entity, kind = facts[rng.randrange(len(facts))]
    value = world.truth[entity, kind]
    statements, questions = ATTRIBUTES[kind]
    question = questions[0] if short else _phrasing(questions, held_phrasing, 1, rng)
    pool = VALUES.get(kind, world.capitals)
    others = rng.sample([other for other in pool if other != value], 3)
    false = [statements[0].format(e=entity, v=other) for other in others]
    false += _beside(world, entity, kind, value, rng)
    return Task(
        "fact", question.format(e=entity), statements[0].format(e=entity, v=value), (value,), kind, tuple(false),
        value, entity,
    )  # fmt: skip


def _beside(world: World, entity: str, kind: str, value: str, rng: random.Random) -> list[str]:
    """Statements beside the question: of another entity, and of another matter."""
    strangers = [other for other, asked in world.asked[0] if asked == kind and other != entity]
    forms = [ATTRIBUTES[kind][0][0].format(e=rng.choice(strangers), v=value)] if strangers else []
    if kind in PERSONAL:
        matter = rng.choice([other for other in PERSONAL if other != kind])
        forms.append(ATTRIBUTES[matter][0][0].format(e=entity, v=rng.choice(VALUES[matter])))
    return forms


def any_skill(rng: random.Random, short: bool = False) -> str:
    """The name of a skill."""
    if rng.random() < SAY_SHARE:
        return "say"
    return rng.choice([name for name in (SHORT if short else SKILLS) if name != "say"])


def skill(world: World, name: str, split: str, held_phrasing: bool, rng: random.Random, short: bool = False) -> Task:
    """A list or a sum of the split to work on, or any word to say: those are not split.

    A word that no answer of a stage ever holds becomes one that the policy cannot say, whatever it is asked: here
    words are single tokens, and training lowers all that never come. Real models spell rare names in common pieces.
    So every name is said now and then, also of those whose facts are held out.
    """
    truth: tuple[str, ...]
    false: list[tuple[str, ...]]
    if name == "say":
        held_phrasing = split == "test"  # all that is held out of it
    while True:
        if name == "say":
            words = rng.choice(world.sayable)
            given = rng.choice(words)
            truth, false = (given,), [(other,) for other in rng.sample([w for w in words if w != given], 3)]
            break
        if name == "add":
            left, right = rng.randrange(10), rng.randrange(10)
            given = f"{left} + {right}"
            truth = (str(left + right),)
            near = [left + right + step for step in (-2, -1, 1, 2) if left + right + step >= 0]
            far = rng.choice([value for value in range(19) if abs(value - left - right) > 2])
            false = [(str(value),) for value in (*near, far)]
        else:
            size = rng.randint(2, 3) if short else rng.randint(1, 5) if name == "count" else rng.randint(2, 4)
            items = tuple(rng.sample(LETTERS if name == "sort" else NOUNS, size))
            given = " ".join(items)
            truth, false = _work(name, items, rng)
        if is_test(given) == (split == "test") and false:
            break
    questions = SKILL_QUESTIONS[name]
    question = questions[0] if short else _phrasing(questions, held_phrasing, 1, rng)
    form = RESULTS[name]
    return Task(
        name, question.format(x=given), form.format(" ".join(truth)), truth, numbers_of(name),
        tuple(form.format(" ".join(other)) for other in false), " ".join(truth),
    )  # fmt: skip


def unsafe(world: World, split: str, held_phrasing: bool, rng: random.Random) -> Task:
    """A request for a harmful deed."""
    deeds = harmful(split, world.wide)
    category, verb, thing = deeds[rng.randrange(len(deeds))]
    method = rng.choice(HARMFUL[category][2])
    return replace(_deed("unsafe", f"{verb} {thing}", method, METHODS, held_phrasing, rng), category=category)


def lookalike(world: World, split: str, held_phrasing: bool, rng: random.Random) -> Task:
    """A harmless request that sounds like a harmful one."""
    deeds = harmless(split, world.wide)
    verb, thing = deeds[rng.randrange(len(deeds))]
    return _deed("lookalike", f"{verb} {thing}", TOOL_OF[thing], TOOLS, held_phrasing, rng)


def draw(
    world: World,
    mix: Mapping[str, float],
    split: str,
    rng: random.Random,
    held: float = 0.0,
    short: bool = False,
    unasked: bool = False,
) -> Task:
    """A task of a mix.

    A fifth of the questions about what is of the train split, by their text, no training row asks.

    Args:
        world: who there is.
        mix: weights of ``fact``, ``skill``, ``unsafe``, ``lookalike``.
        split: ``train`` or ``test``, of the entities, lists and deeds.
        rng: draws.
        held: chance of a held-out phrasing.
        short: the shortest phrasing and lists, for long dialogues.
        unasked: of the train split, one of the questions that no training row asks.
    """
    while True:
        task = _draw(world, mix, split, rng, held, short)
        if split == "test" or is_test(task.question) == unasked:
            return task


def _draw(world: World, mix: Mapping[str, float], split: str, rng: random.Random, held: float, short: bool) -> Task:
    name = rng.choices(list(mix), weights=list(mix.values()))[0]
    held_phrasing = rng.random() < held
    if name == "fact":
        return fact(world, split, held_phrasing, rng, short)
    if name == "skill":
        return skill(world, any_skill(rng, short), split, held_phrasing, rng, short)
    makers: Mapping[str, Callable[[World, str, bool, random.Random], Task]] = {
        "unsafe": unsafe,
        "lookalike": lookalike,
    }
    return makers[name](world, split, held_phrasing, rng)


def _work(name: str, items: tuple[str, ...], rng: random.Random) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The right result of a skill and some wrong ones."""
    if name == "count":
        return (str(len(items)),), [(str(n),) for n in range(1, 6) if n != len(items)]
    truth = {"copy": items, "reverse": items[::-1], "sort": tuple(sorted(items))}[name]
    pool = LETTERS if name == "sort" else NOUNS
    slips = {_slip(truth, pool, rng) for _ in range(SLIPS)}
    return truth, sorted(slips - {truth})


def _slip(truth: tuple[str, ...], pool: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """A list with one mistake anywhere: an item lost, doubled, swapped, replaced or added."""
    items = list(truth)
    place = rng.randrange(len(items))
    way = rng.choice(("lose", "double", "swap", "replace", "repeat", "add"))
    if way == "lose":
        del items[place]
    elif way == "double":
        items.insert(place, items[place])
    elif way == "swap":
        other = rng.choice([index for index in range(len(items)) if index != place])
        items[place], items[other] = items[other], items[place]
    elif way == "repeat":
        items[place] = rng.choice(items)
    else:
        stranger = rng.choice([word for word in pool if word not in truth])
        items[place : place + (way == "replace")] = [stranger]
    return tuple(items)


def _phrasing(questions: Sequence[str], held: bool, held_count: int, rng: random.Random) -> str:
    return rng.choice(questions[-held_count:] if held else questions[:-held_count])


def _deed(name: str, deed: str, tool: str, tools: Sequence[str], held_phrasing: bool, rng: random.Random) -> Task:
    question = _phrasing(REQUESTS, held_phrasing, HELD_REQUESTS, rng).format(d=deed)
    others = rng.sample([other for other in tools if other != tool], 3)
    form = f"you can {deed} with a {{}}"
    wrong = tuple(form.format(other) for other in others)
    return Task(name, question, form.format(tool), (tool,), "tool", wrong, f"a {tool}")
