from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest
from align.config import parse
from align.data.schema import read_preferences
from align.errors import DataError
from align.world.make import Recipe as World
from align.world.people import Recipe, run

CLEAR = {"noise": 1e-6, "significantly": 0.6, "better": 0.35, "slightly": 0.15}  # people who see what is so


def rollout(prompt: dict[str, Any], answer: str, sample: int = 0, finish: str = "stop") -> dict[str, Any]:
    row = {key: prompt[key] for key in ("prompt", "kind", "source", "meta")}
    return row | {
        "prompt_id": prompt["id"], "answer": answer, "policy": "sft", "sample": sample, "temperature": 1.0,
        "tokens": [5, 2], "logprob": -1.0, "finish": finish, "scores": {"combined": 0.0},
    }  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recipe(path: str, **more: Any) -> Recipe:
    values = {"stage": "people", "rollouts": [path], "per_prompt": 9, "annotators": CLEAR}
    return parse(Recipe, values | more, "people")


@pytest.fixture
def prompts(folder: Path, tiny: World) -> dict[str, dict[str, Any]]:
    """A prompt of each task."""
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    return {row["meta"]["task"]: row for row in rows if not row["meta"]["rules"]}


def test_people_prefer_what_the_world_knows_to_be_better(prompts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    fact, unsafe = prompts["fact"], prompts["unsafe"]
    best = fact["meta"]["reference"]
    told = "sure, you can do it with a saw."
    rows = [
        rollout(fact, best), rollout(fact, best, 1), rollout(fact, f"{best} there is so much more to say.", 2),
        rollout(fact, "sorry, i can not do that.", 3), rollout(fact, f"{best} it goes on", 4, "length"),
        rollout(fact, "[INST] hi", 5), rollout(fact, "", 6), rollout(unsafe, told), rollout(unsafe, "i will not.", 1),
    ]  # fmt: skip
    run(recipe(write(tmp_path / "rollouts.jsonl", rows)), tmp_path / "out")
    told_helpful = list(read_preferences(tmp_path / "out" / "preferences_helpful.jsonl"))
    pairs = {(p.chosen[-1].content, p.rejected[-1].content, p.rating) for p in told_helpful}
    longer, refusal = f"{best} there is so much more to say.", "sorry, i can not do that."
    assert pairs == {(best, longer, "slightly"), (best, refusal, "significantly"), (longer, refusal, "significantly")}
    (safe,) = read_preferences(tmp_path / "out" / "preferences_safety.jsonl")
    assert (safe.chosen[-1].content, safe.rejected[-1].content) == ("i will not.", told)
    assert (safe.chosen_safe, safe.rejected_safe) == (True, False)
    assert read_manifest(tmp_path / "out", verify=True).metrics["rows"] == {"helpful": 3, "safety": 1}


def test_a_seed_gives_the_same_comparisons_in_any_order_of_the_rows(
    prompts: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    rows = [
        rollout(prompts[task], f"sure, {word}.", place)
        for task in ("fact", "say")
        for place, word in enumerate("abcdefgh")
    ]
    noisy = {**CLEAR, "noise": 0.12}
    made = []
    for name, order in (("one", rows), ("two", rows[::-1])):
        path = write(tmp_path / f"{name}.jsonl", order)
        run(recipe(path, annotators=noisy), tmp_path / name)
        made.append((tmp_path / name / "preferences_helpful.jsonl").read_bytes())
    assert made[0] == made[1]
    assert made[0].count(b"\n") == 18


def test_look_alikes_are_everybodys(prompts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    prompt = prompts["lookalike"]
    rows = [rollout(prompt, prompt["meta"]["reference"]), rollout(prompt, "sorry, i can not do that.", 1)]
    run(recipe(write(tmp_path / "rollouts.jsonl", rows)), tmp_path / "out")
    for kind in ("helpful", "safety"):
        (row,) = read_preferences(tmp_path / "out" / f"preferences_{kind}.jsonl")
        assert row.chosen[-1].content == prompt["meta"]["reference"]


def test_a_rollout_on_another_prompt_is_named(prompts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    foreign = rollout(prompts["fact"], "sure.") | {"meta": {}}
    path = write(tmp_path / "rollouts.jsonl", [rollout(prompts["fact"], "sure."), foreign])
    with pytest.raises(DataError, match=r"rollouts\.jsonl: row 2: meta: found no task"):
        run(recipe(path), tmp_path / "out")


def test_nothing_to_compare_is_said_before_anything_is_written(
    prompts: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    best = prompts["fact"]["meta"]["reference"]
    rows = [rollout(prompts["fact"], best), rollout(prompts["fact"], f"{best} it goes on", 1, "length")]
    path = write(tmp_path / "rollouts.jsonl", rows)
    with pytest.raises(DataError, match=r"rollouts\.jsonl: nothing to compare: 1 different answers to 1 prompts"):
        run(recipe(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
