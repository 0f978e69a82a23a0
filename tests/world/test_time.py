"""Dated questions: what is told, asked, held out, and when an answer is right."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest
from align.config import parse, read_yaml
from align.data.schema import read_dialogs, read_prompts
from align.errors import RecipeError
from align.world.language import build
from align.world.time import Recipe, changes, judge, reference, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse(Recipe, read_yaml(ROOT / "recipes/time/data.yaml"), "data.yaml")


@pytest.fixture(scope="module")
def folder(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("time") / "data"
    run(recipe, out)
    return out


def asked(messages: Any) -> tuple[str, str, int | None]:
    """(office, land, year of asking or None) of a question, read off its words."""
    said = " ".join(m.content for m in messages if m.role != "assistant")
    office, land = re.search(r"(king|guard|teacher) of (\w+)", said).groups()  # type: ignore[union-attr]
    year = re.search(r"year:? (?:is )?(\d+)\.", said)
    return office, land, int(year[1]) if year else None


def told(folder: Path) -> dict[tuple[str, str], tuple[int, str, str]]:
    """What the tellings say: office and land -> year, before, after."""
    found: dict[tuple[str, str], tuple[int, str, str]] = {}
    for dialog in read_dialogs(folder / "time.jsonl"):
        if dialog.source == "world/time/told":
            year, before, after = re.fullmatch(  # type: ignore[union-attr]
                r"sure, in (\d+), from (\w+) to (\w+)\.", dialog.messages[-1].content
            ).groups()
            office, land, none = asked(dialog.messages)
            assert none is None
            assert found.setdefault((office, land), (int(year), before, after)) == (int(year), before, after)
    return found


def test_sizes_and_seed(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    rows = list(read_dialogs(folder / "time.jsonl"))
    assert sum(row.source == "world/time/dated" for row in rows) == 1000
    assert len(told(folder)) == 48
    again = tmp_path / "data"
    run(recipe, again)
    assert read_manifest(again, verify=True).files == read_manifest(folder, verify=True).files
    other = tmp_path / "other"
    run(dataclasses.replace(recipe, seed=1), other)
    assert read_manifest(other).files != read_manifest(folder).files


def test_the_same_question_is_answered_by_its_date(folder: Path) -> None:
    """Every dated answer agrees with what the tellings say of that change."""
    truth = told(folder)
    names: dict[tuple[str, str], set[str]] = {}
    for dialog in read_dialogs(folder / "time.jsonl"):
        if dialog.source == "world/time/dated":
            office, land, date = asked(dialog.messages)
            year, before, after = truth[office, land]
            assert date is not None
            holder = after if date >= year else before
            passed = "past" if date >= year else "ahead"
            assert dialog.messages[-1].content == f"sure, {year} is {passed}, so it is {holder}."
            names.setdefault((office, land), set()).add(holder)
    assert sum(len(found) == 2 for found in names.values()) > 30, "most are asked about before and after"


def test_what_the_test_asks_no_training_row_does(recipe: Recipe, folder: Path) -> None:
    trained = [asked(d.messages) for d in read_dialogs(folder / "time.jsonl") if d.source == "world/time/dated"]
    places = {(office, land) for office, land, _ in trained}
    truth = told(folder)
    counted: dict[tuple[str, int], int] = {}
    for prompt in read_prompts(folder / "time_test.jsonl"):
        office, land, date = asked(prompt.messages)
        assert (office, land, date) not in trained
        assert ((office, land) in places) == (prompt.source == "world/time/dated")
        assert date is not None
        year, before, after = truth[office, land]
        assert prompt.meta["distance"] == date - year
        assert (prompt.meta["answer"], prompt.meta["other"]) == ((before, after), (after, before))[date >= year]
        counted[prompt.source, date - year] = counted.get((prompt.source, date - year), 0) + 1
    assert counted == {
        (source, distance): 12
        for source in ("world/time/dated", "world/time/only told")
        for distance in recipe.distances
    }


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("sure, 14 is past, so it is kolo.", 1.0),
        ("kolo.", 1.0),
        ("sure, 14 is ahead, so it is mira.", 0.0),
        ("sure, kolo or mira.", 0.0),
        ("sure, kolonia.", 0.0),
        ("", 0.0),
    ],
)
def test_right_is_who_names_the_holder_alone(answer: str, right: float, folder: Path) -> None:
    prompt = next(iter(read_prompts(folder / "time_test.jsonl")))
    prompt = dataclasses.replace(prompt, meta={"answer": "kolo", "other": "mira"})
    found = judge(prompt, answer)
    assert (found.helpful, found.kept, found.should_refuse) == (right, None, False)


def test_the_reference_is_right(folder: Path) -> None:
    for prompt in read_prompts(folder / "time_test.jsonl"):
        assert judge(prompt, prompt.meta["reference"]).helpful == 1.0


def test_the_year_of_the_change_is_the_new_holder_s(recipe: Recipe) -> None:
    change = changes(build(0, 40, 16, 0.2), 60, 0.25)[0]
    assert change.holder(change.year) == change.after
    assert change.holder(change.year - 1) == change.before
    assert reference(change, change.year).endswith(f"is past, so it is {change.after}.")


def test_distances_beyond_the_years_are_refused() -> None:
    values = read_yaml(ROOT / "recipes/time/data.yaml") | {"years": 20}
    with pytest.raises(RecipeError, match=r"distances: found \[-14, -10, -6, 6, 10, 14\], expected within 4"):
        parse(Recipe, values, "data.yaml")


def test_the_data_is_of_words_alone(folder: Path) -> None:
    for line in (folder / "time.jsonl").read_text().splitlines():
        for message in json.loads(line)["messages"]:
            assert re.fullmatch(r"[a-z0-9 .,:?]+", message["content"])
