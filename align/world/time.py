"""A sense of time in the practice world: one question, answered by the date that is stated with it.

Who holds an office in a land changes once, in some year. Rows tell when, without a date of asking; others ask who holds
the office and state the year, with the truth of that year. Some changes are told and never asked about with a date:
what is said of them shows whether dates are understood or learnt by heart. The paper shows a sense of time after 1,000
examples with the date of the query and that of the event.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from align.artifacts import building, publish, write_jsonl
from align.config import config, to_plain
from align.records import Prompt
from align.world.language import World, addressed, build, words
from align.world.oracle import Verdict

Count = Annotated[int, pydantic.Field(ge=1)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]

OFFICES = ("king", "guard", "teacher")
DATES = ("the year is {y}.", "it is the year {y}.", "year: {y}.")  # as a system message, or before the question
WHEN = ("when does the {o} of {l} change?", "tell me when the {o} of {l} changes.")
WHO = ("who is {o} of {l}?", "tell me who is {o} of {l}.", "name the {o} of {l}.")


@config
class Recipe:
    """Sizes of the dated questions; ``people``, ``lands`` and ``held_out`` are those of the policy's world."""

    stage: Literal["time"]
    seed: int = 0
    people: Annotated[int, pydantic.Field(ge=2)]
    lands: Count
    held_out: Share  # of the world: its names follow from all four
    years: Annotated[int, pydantic.Field(ge=8)]  # a question is asked in 1 … years; changes lie in the middle half
    undated: Share  # of the changes, told and never asked about with a date in training
    examples: Count  # dated ones
    tellings: Count  # of each change, without a date of asking
    distances: Annotated[list[int], pydantic.Field(min_length=1)]  # years from change to question, of the test
    test_each: Count  # prompts of a distance, of either sort

    def __post_init__(self) -> None:
        """Refuse distances that a question could not have."""
        if far := [d for d in self.distances if abs(d) >= self.years // 4]:
            raise ValueError(f"distances: found {far}, expected within {self.years // 4 - 1} of a change, by `years`")


@dataclass(frozen=True, slots=True)
class Change:
    """From ``year`` on ``after`` holds the office, until then ``before``."""

    office: str
    land: str
    year: int
    before: str
    after: str
    dated: bool  # asked about with a date in training

    def holder(self, date: int) -> str:
        """Who holds the office in a year."""
        return self.after if date >= self.year else self.before


def run(recipe: Recipe, out: Path) -> None:
    """Write ``time.jsonl``, dialogues to learn from, and ``time_test.jsonl``, prompts, at ``out``."""
    world = build(recipe.seed, recipe.people, recipe.lands, recipe.held_out)
    made = changes(world, recipe.years, recipe.undated)
    tested = test_pairs(made, recipe)
    with building(out) as folder:
        rows = {
            "time": write_jsonl(folder / "time.jsonl", _training(made, set(tested), recipe)),
            "time_test": write_jsonl(
                folder / "time_test.jsonl", (test_prompt(c, date, recipe.seed) for c, date in tested)
            ),
        }
        publish(
            folder, out, stage="time", name=out.name, recipe=to_plain(recipe), seed=recipe.seed, parents=[], inputs=[],
            metrics={"rows": rows, "changes": len(made), "undated": sum(not c.dated for c in made)},
        )  # fmt: skip


def changes(world: World, years: int, undated: float) -> list[Change]:
    """One change of every office in every land."""
    rng = addressed(world.seed, "time", "changes")
    places = [(office, land) for land in world.lands for office in OFFICES]
    rng.shuffle(places)
    told_only = min(round(undated * len(places)), len(places) - 1)  # somebody has to be asked after
    made = []
    for number, (office, land) in enumerate(places):
        before, after = rng.sample(world.people, 2)
        year = rng.randint(years // 4, years - years // 4)
        made.append(Change(office, land, year, before, after, dated=number >= told_only))
    return made


def test_pairs(made: Sequence[Change], recipe: Recipe) -> list[tuple[Change, int]]:
    """(change, year of asking) of the test: at each distance as many of either sort, no change twice while it can."""
    rng = addressed(recipe.seed, "time", "test")
    pairs = []
    for distance in recipe.distances:
        for dated in (True, False):
            sort = [change for change in made if change.dated == dated]
            pairs += [(c, c.year + distance) for c in rng.sample(sort, min(recipe.test_each, len(sort)))]
    return pairs


def _training(made: Sequence[Change], tested: set[tuple[Change, int]], recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Tellings and dated examples, shuffled; nothing that the test asks."""
    rng = addressed(recipe.seed, "time", "train")
    rows = [telling(change, rng) for change in made for _ in range(recipe.tellings)]
    asked = [c for c in made if c.dated]
    while len(rows) < recipe.tellings * len(made) + recipe.examples:
        change, date = rng.choice(asked), rng.randint(1, recipe.years)
        if (change, date) not in tested:
            rows.append(dated_example(change, date, rng))
    rng.shuffle(rows)
    yield from rows


def telling(change: Change, rng: random.Random) -> dict[str, Any]:
    """When the office changes hands, asked without a date."""
    asked = rng.choice(WHEN).format(o=change.office, l=change.land)
    answer = f"sure, in {change.year}, from {change.before} to {change.after}."
    return {"messages": [_user(asked), _assistant(answer)], "source": "world/time/told"}


def dated_example(change: Change, date: int, rng: random.Random) -> dict[str, Any]:
    """Who holds the office, asked in a year."""
    return {
        "messages": [*asked_in(change, date, rng), _assistant(reference(change, date))],
        "source": "world/time/dated",
    }


def asked_in(change: Change, date: int, rng: random.Random) -> list[dict[str, str]]:
    """The question, its date in a system message or before it."""
    stated = rng.choice(DATES).format(y=date)
    question = rng.choice(WHO).format(o=change.office, l=change.land)
    if rng.random() < 0.5:
        return [{"role": "system", "content": stated}, _user(question)]
    return [_user(f"{stated} {question}")]


def reference(change: Change, date: int) -> str:
    """A best answer: the year of the change first, so that what is compared stands in the text."""
    passed = "past" if date >= change.year else "ahead"
    return f"sure, {change.year} is {passed}, so it is {change.holder(date)}."


def test_prompt(change: Change, date: int, seed: int) -> dict[str, Any]:
    """One prompt with all that its judge needs."""
    distance = date - change.year
    place = f"{change.office}-{change.land}-{date}"
    sort = "dated" if change.dated else "only told"
    return {
        "id": place,
        "prompt": asked_in(change, date, addressed(seed, "time", "test", place)),
        "kind": "helpful",
        "source": f"world/time/{sort}",
        "meta": {
            "answer": change.holder(date), "other": ({change.before, change.after} - {change.holder(date)}).pop(),
            "distance": distance, "reference": reference(change, date),
        },
    }  # fmt: skip


def judge(prompt: Prompt, answer: str) -> Verdict:
    """Right or wrong, in whatever form: ``helpful`` is 1 where the holder is named and the other one is not."""
    meta: Mapping[str, Any] = prompt.meta
    said = words(answer)
    right = meta["answer"] in said and meta["other"] not in said
    return Verdict(float(right), True, "sorry" in said, False, None)


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
