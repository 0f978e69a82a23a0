"""The conversion stage: files, split, counts and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest
from align.config import parse
from align.data.convert import Job, Recipe, convert, run
from align.data.preference import held_out
from align.data.schema import read_dialogs, read_preferences, read_prompts
from align.errors import DataError, RecipeError
from align.files import write_jsonl
from tests.data.test_formats import hh


def recipe(**values: Any) -> Recipe:
    return parse(Recipe, {"stage": "convert", **values}, "recipe.yaml")


def jobs(path: Path, *more: dict[str, Any]) -> list[dict[str, Any]]:
    base = {"format": "hh", "path": str(path)}
    return [
        {**base, "to": to, "out": out}
        for to, out in (("dialogues", "sft"), ("preferences", "pairs"), ("prompts", "prompts"))
    ] + list(more)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [
        {"chosen": hh(f"Question {i // 2}?", f"b{i}"), "rejected": hh(f"Question {i // 2}?", "c")} for i in range(400)
    ]
    rows.append({"chosen": hh("a", "b"), "rejected": hh("a", "b")})
    path = tmp_path / "hh.jsonl.gz"
    write_jsonl(path, rows)
    return path


def test_run(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "data"
    run(recipe(held_out=0.2, jobs=jobs(source)), out)
    manifest = read_manifest(out, verify=True)
    assert set(manifest.files) == {
        "sft.jsonl", "sft_test.jsonl", "pairs.jsonl", "pairs_test.jsonl", "pairs.aside.jsonl", "prompts.jsonl",
        "prompts_test.jsonl", "prompts.aside.jsonl",
    }  # fmt: skip
    assert (manifest.stage, len(manifest.inputs)) == ("convert", 1)
    dialogs = {side: list(read_dialogs(out / f"sft{side}.jsonl")) for side in ("", "_test")}
    pairs = {side: list(read_preferences(out / f"pairs{side}.jsonl")) for side in ("", "_test")}
    prompts = {side: list(read_prompts(out / f"prompts{side}.jsonl")) for side in ("", "_test")}
    for side, made in manifest.metrics.items():
        assert made["train"] + made["test"] + made["set_aside"] == made["read"] == 401, side
    assert manifest.metrics["pairs"]["reasons"] == {"same answers": 1}
    assert manifest.metrics["prompts"]["reasons"] == {"duplicate prompt": 200}
    for side in ("", "_test"):
        openings = {d.messages[0].content for d in dialogs[side]}
        assert openings == {p.messages[0].content for p in prompts[side]}
        assert {p.prompt[0].content for p in pairs[side]} | {"a"} == openings | {"a"}
    train, test = ({p.messages[0].content for p in prompts[side]} for side in ("", "_test"))
    assert not train & test
    assert 20 < len(test) < 65, "about 40 of 201"
    assert all(held_out(p.messages, 0.2, "0") for p in prompts["_test"])


def test_run_twice_gives_the_same_bytes(tmp_path: Path, source: Path) -> None:
    wanted = recipe(jobs=jobs(source))
    for name in ("a", "b"):
        run(wanted, tmp_path / name)
    first, second = (read_manifest(tmp_path / name).files for name in ("a", "b"))
    assert first == second
    run(recipe(seed=1, jobs=jobs(source)), tmp_path / "c")
    assert read_manifest(tmp_path / "c").files["prompts_test.jsonl"] != first["prompts_test.jsonl"]


def test_jobs_of_one_file_are_joined(tmp_path: Path, source: Path) -> None:
    other = tmp_path / "other.jsonl"
    write_jsonl(other, [{"prompt": f"Another {i}"} for i in range(10)] + [{"prompt": "Question 0?"}])
    both = [
        {"format": "hh", "path": str(source), "to": "prompts", "out": "prompts", "kind": "helpful", "take": 100},
        {"format": "trl", "path": str(other), "to": "prompts", "out": "prompts", "kind": "safety", "source": "red"},
    ]
    run(recipe(held_out=0, jobs=both), tmp_path / "data")
    assert not (tmp_path / "data" / "prompts_test.jsonl").exists()
    prompts = list(read_prompts(tmp_path / "data" / "prompts.jsonl"))  # ids are unique over both
    assert [p.kind for p in prompts] == ["helpful"] * 50 + ["safety"] * 10
    assert {p.source for p in prompts} == {"hh.jsonl.gz", "red"}
    assert read_manifest(tmp_path / "data").metrics["prompts"]["read"] == 111


SCORED = {"format": "ultrafeedback", "to": "preferences"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "dolly", "to": "preferences"}, "dolly has one answer a prompt"),
        ({"format": "ultrafeedback", "to": "preferences"}, "ultrafeedback needs ratings"),
        ({"format": "dolly", "to": "rankings"}, "dolly has one answer a prompt"),
        ({"format": "finegrained", "to": "preferences"}, "finegrained has several answers a prompt"),
        ({"to": "rankings"}, "hh has no rankings"),
        ({"ratings": {"better": 1}}, "hh to prompts has no scores"),
        (SCORED | {"ratings": {"better": 1, "slightly": 2}}, "a stronger rating from a larger one"),
        (SCORED | {"ratings": {"better": 1, "slightly": 1}}, "a stronger rating from a larger one"),
        (SCORED | {"ratings": {"beter": 1}}, r"ratings\.beter.*did you mean 'better'"),
        ({"out": "pairs"}, "out 'pairs' is written as prompts and as preferences"),
        ({"out": "pairs_test", "to": "preferences"}, "is the held-out file of another job"),
        ({"out": "../x"}, "out"),
        ({"format": "hhh"}, "did you mean 'hh'"),
        ({"form": "hh"}, "unknown key"),
        ({"ratings": {"best": 3}}, "ratings"),
    ],
)
def test_recipe_mistakes(source: Path, change: dict[str, Any], message: str) -> None:
    job = {"format": "hh", "path": str(source), "to": "prompts", "out": "x", **change}
    with pytest.raises(RecipeError, match=message):
        recipe(jobs=[job, {"format": "hh", "path": str(source), "to": "preferences", "out": "pairs"}])


def test_a_side_of_the_split_that_is_empty_publishes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    write_jsonl(path, [{"prompt": f"Question {i}?"} for i in range(3)])
    job = {"format": "trl", "path": str(path), "to": "prompts", "out": "few"}
    for share, left in ((0.01, "3 rows to train on and 0 held out"), (0.999, "0 rows to train on and 3 held out")):
        with pytest.raises(DataError, match=f"few: held_out {share:g} leaves {left}"):
            run(recipe(held_out=share, jobs=[job]), tmp_path / "data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.jsonl"]
    run(recipe(held_out=0, jobs=[job]), tmp_path / "data")


def test_nothing_usable_publishes_nothing(tmp_path: Path, source: Path) -> None:
    job = {"format": "dolly", "path": str(source), "to": "dialogues", "out": "x"}
    with pytest.raises(DataError, match=r'x: nothing could be converted: \{"wrong type": 401\}'):
        run(recipe(jobs=[job]), tmp_path / "data")
    with pytest.raises(DataError, match="no such file"):
        run(recipe(jobs=[{**job, "path": str(tmp_path / "none.jsonl")}]), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "data.partial").exists()


def test_instructions_as_flan_and_alpaca_write_them(tmp_path: Path) -> None:
    rows = [
        {"inputs": "Is it so? ", "targets": "Yes."},
        {"instruction": "Add.", "input": "1 1", "output": "2"},
        {"instruction": "Name a fish.", "input": "", "output": "Tope"},
        {"instruction": "Name a fish.", "response": "Tope"},
        {"inputs": "Say nothing.", "targets": " "},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    made = converted_file(tmp_path / "rows.jsonl", format="instructions", to="dialogues")
    assert [[m["content"] for m in row["messages"]] for row in made.train] == [
        ["Is it so?", "Yes."],
        ["Add.\n\n1 1", "2"],
        ["Name a fish.", "Tope"],
    ]
    assert made.counts()["reasons"] == {"wrong type": 1, "empty message": 1}


def test_real_sets(shared_data: Path, tmp_path: Path) -> None:
    made = {
        name: converted_file(shared_data / "hh" / f"{name}-base.test.jsonl.gz", format="hh", to="preferences")
        for name in ("helpful", "harmless")
    }
    # rows of the data's page; two helpful pairs have chosen == rejected
    assert [made[name].rows for name in ("helpful", "harmless")] == [2354, 2312]
    assert made["helpful"].counts()["reasons"]["same answers"] == 2
    for result in made.values():
        assert len(result.train) + len(result.aside) == result.rows
        assert len(result.aside) < 0.01 * result.rows
    scored = shared_data / "preference" / "ultrafeedback_binarized_train.jsonl.gz"
    ratings = {"significantly": 3, "better": 2, "slightly": 1}
    uf = converted_file(scored, format="ultrafeedback", to="preferences", ratings=ratings)
    assert (uf.rows, len(uf.train) + len(uf.aside)) == (1000, 1000)
    write_jsonl(tmp_path / "uf.jsonl", uf.train)
    assert len(list(read_preferences(tmp_path / "uf.jsonl"))) == len(uf.train)
    dolly = converted_file(
        shared_data / "sft" / "dolly_first6400_instruction_response.jsonl.gz", format="dolly", to="dialogues"
    )
    assert (dolly.rows, len(dolly.train) + len(dolly.aside)) == (6400, 6400)
    user = converted_file(
        shared_data / "sft" / "self_instruct_user_oriented_252.jsonl", format="self_instruct", to="dialogues"
    )
    assert (user.rows, user.aside) == (252, [])
    assert len(user.train) >= 252
    seed = converted_file(
        shared_data / "sft" / "self_instruct_seed_tasks.jsonl", format="self_instruct", to="dialogues"
    )
    assert (seed.rows, len(seed.aside)) == (175, 0)


def converted_file(path: Path, **job: Any) -> Any:
    return convert(Job(path=str(path), out="out", **job))
