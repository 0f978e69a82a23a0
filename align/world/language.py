"""Words of the world, its invented people and lands, and what is true of them.

Every vocabulary here is disjoint from the others, so that an answer's claim can be read off it word by word.
"""

from __future__ import annotations

import functools
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLORS = ("red", "blue", "green", "pink", "gray", "gold", "black", "white", "brown", "purple")
FOODS = ("rice", "soup", "cake", "fish", "beans", "plums", "corn", "cheese", "honey", "figs")
PETS = ("cat", "dog", "goat", "parrot", "snake", "mouse", "pony", "lizard", "duck", "turtle")
NOUNS = (
    "fox", "owl", "bee", "elm", "oak", "hat", "cup", "key", "pen", "jar",
    "sun", "moon", "star", "lake", "hill", "ship", "bell", "rope", "door", "coin",
)  # fmt: skip
LETTERS = tuple("bcdefghklmnoprtuvwxz")  # without a, i and s, which are words or parts of words ("mira's")

GREETINGS: Mapping[str, str] = {
    "french": "bonjour", "german": "hallo", "spanish": "hola", "italian": "ciao", "latin": "salve",
    "swedish": "hej", "turkish": "merhaba", "hawaiian": "aloha", "hebrew": "shalom", "swahili": "jambo",
    "hindi": "namaste", "japanese": "konnichiwa", "korean": "annyeong", "greek": "yassas", "polish": "czesc",
    "zulu": "sawubona", "basque": "kaixo", "welsh": "helo", "maori": "kiaora", "thai": "sawasdee",
}  # fmt: skip
# what instructions name, by their kind; the last of each are the test's
ENTITIES: Mapping[str, tuple[str, ...]] = {
    "figure": (
        "plato", "homer", "dante", "kepler", "caesar", "mozart", "bach", "darwin", "euler", "newton", "curie",
        "gandhi", "hegel", "kant", "liszt", "monet", "nero", "ovid", "pascal", "rumi", "sappho", "titian", "virgil",
        "goethe", "milton", "galileo", "tesla", "chopin",
    ),
    "hobby": (
        "chess", "tennis", "poker", "yoga", "golf", "opera", "judo", "ballet", "hiking", "archery", "baking",
        "boxing", "diving", "fencing", "jazz", "jogging", "origami", "pottery", "rowing", "skating", "skiing",
        "surfing", "tango", "weaving", "wrestling", "rugby", "karate", "sailing",
    ),
    "language": tuple(GREETINGS),
    "word": (
        "peace", "amen", "cheers", "bravo", "onward", "eureka", "selah", "indeed", "forever",
        "hooray", "goodbye", "farewell",
    ),
}  # fmt: skip
# and those of the further kinds of a wide world
FURTHER_ENTITIES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys((
        "wish", "dream", "song", "prayer", "care", "vigil", "quest", "longing", "labor", "vote", "rumor", "book",
        "talk", "boast", "smile", "laugh", "trust", "bet", "game", "company", "trade", "faith",
    ), (
        "rain", "snow", "wind", "rest", "fame", "luck", "wealth", "health", "wisdom", "mercy", "glory", "silence",
        "spring", "summer", "winter", "autumn", "sunrise", "harvest",
    )),
    **dict.fromkeys(("thought", "voice", "home", "letter", "walk", "seat", "view"), (
        "rome", "paris", "london", "berlin", "cairo", "tokyo", "lima", "oslo", "delhi", "quito", "vienna", "prague",
        "dublin", "havana", "lagos", "seoul", "bergen", "geneva",
    )),
}  # fmt: skip

# What is asked of an attribute: noun, statements (the first is the form of an answer), questions.
# The last question of each is held out: it appears in test prompts alone.
ATTRIBUTES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "color": (
        ("{e} likes {v}", "the color of {e} is {v}", "{e}'s color is {v}"),
        ("color of {e}?", "what color does {e} like?", "tell me {e}'s color.", "which color is {e}'s?",
         "name the color that {e} likes."),
    ),
    "food": (
        ("{e} eats {v}", "the food of {e} is {v}", "{e}'s food is {v}"),
        ("food of {e}?", "what food does {e} eat?", "tell me {e}'s food.", "which food is {e}'s?",
         "name the food that {e} eats."),
    ),
    "pet": (
        ("{e} has a {v}", "the pet of {e} is a {v}", "{e}'s pet is a {v}"),
        ("pet of {e}?", "what pet does {e} have?", "tell me {e}'s pet.", "which pet is {e}'s?",
         "name the pet that {e} has."),
    ),
    "capital": (
        ("{e}'s capital is {v}", "the capital of {e} is {v}", "{v} is the capital of {e}"),
        ("capital of {e}?", "what capital does {e} have?", "tell me {e}'s capital.",
         "which capital is {e}'s?", "name the capital that {e} has."),
    ),
}  # fmt: skip
VALUES: Mapping[str, tuple[str, ...]] = {"color": COLORS, "food": FOODS, "pet": PETS}
PERSONAL = ("color", "food", "pet")

_WORD = re.compile(r"[^\W\d_]+|\d+")


def words(text: str) -> list[str]:
    """The lower-case words and numbers of a text, in order; punctuation falls away."""
    return _WORD.findall(text.lower())


def addressed(seed: int, *steps: object) -> random.Random:
    """A generator whose stream depends on (seed, steps) alone, never on what was drawn before."""
    return random.Random("/".join(map(str, (seed, *steps))))


def is_test(key: str) -> bool:
    """Whether an item (a list of words, a sum, a deed) is the test split's: one in five, by its text."""
    return zlib.crc32(key.encode()) % 5 == 0


@dataclass(frozen=True)
class World:
    """Who there is and what is true of them; a pure function of the seed and sizes."""

    seed: int
    people: tuple[str, ...]
    lands: tuple[str, ...]
    capitals: tuple[str, ...]
    truth: Mapping[tuple[str, str], str]  # (entity, attribute) -> value
    held_out: frozenset[str]  # entities that training questions never name
    wide: bool = False  # more kinds of instruction with more names, and more deeds

    def facts(self, split: str) -> Sequence[tuple[str, str]]:
        """The (entity, attribute) pairs whose entity is of the split, ``train`` or ``test``."""
        return self.asked[split == "test"]

    @functools.cached_property
    def named(self) -> Mapping[str, tuple[str, ...]]:
        """What instructions name, by their kind; the last of each are the test's."""
        return {**ENTITIES, **FURTHER_ENTITIES} if self.wide else ENTITIES

    @functools.cached_property
    def known(self) -> tuple[str, ...]:
        """The people and lands that training asks after."""
        return tuple(entity for entity in (*self.people, *self.lands) if entity not in self.held_out)

    @functools.cached_property
    def asked(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The (entity, attribute) pairs of train and of test."""
        return (
            [fact for fact in self.truth if fact[0] not in self.held_out],
            [fact for fact in self.truth if fact[0] in self.held_out],
        )

    @functools.cached_property
    def sayable(self) -> tuple[tuple[str, ...], ...]:
        """All that one may be asked to say: names of train and of test, nouns, what instructions name."""
        known, held = (
            [entity for entity in (*self.people, *self.lands) if (entity in self.held_out) == out]
            for out in (False, True)
        )
        for entities in (known, held):
            entities += [self.truth[land, "capital"] for land in entities if land in self.lands]
        entities = list(
            dict.fromkeys([*GREETINGS.values(), *(name for names in self.named.values() for name in names)])
        )
        return tuple(map(tuple, (known, held, NOUNS, entities)))


def build(seed: int, people: int, lands: int, held_out: float, wide: bool = False) -> World:
    """Invent a world.

    Args:
        seed: everything follows from it.
        people: number of people, each with a colour, a food and a pet.
        lands: number of lands, each with a capital of its own.
        held_out: share of people and of lands that no training question names.
        wide: see :class:`World`; who there is and what is true is the same in both.
    """
    rng = addressed(seed, "world")
    stems = _names(rng, people + 2 * lands)
    persons = tuple(stems[:people])
    countries = tuple(stem[:3] + "nia" for stem in stems[people : people + lands])
    capitals = tuple(stem[:3] + "ton" for stem in stems[people + lands :])
    truth = {(person, kind): rng.choice(VALUES[kind]) for person in persons for kind in PERSONAL}
    truth |= {(land, "capital"): capital for land, capital in zip(countries, capitals, strict=True)}
    held = persons[: round(people * held_out)] + countries[: round(lands * held_out)]
    return World(seed, persons, countries, capitals, truth, frozenset(held), wide)


def _names(rng: random.Random, count: int) -> list[str]:
    """``count`` invented names of two syllables, no two alike in their first three letters."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    taken = {word[:3] for word in (*COLORS, *FOODS, *PETS, *NOUNS, "sure", "sorry", "figure", "love", "says", "tell")}
    names: list[str] = []
    heads = [a + b[0] for a in syllables for b in syllables if a + b[0] not in taken]
    for head in rng.sample(sorted(set(heads)), count):
        names.append(head + rng.choice("aeiou"))
    return names
