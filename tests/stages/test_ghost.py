"""Ghost Attention's dialogues: what is kept of what was sampled, and what a judge is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest, write_jsonl
from align.config import parse
from align.data.ghost import Plan
from align.data.schema import read_constraints, read_dialogs
from align.errors import DataError, RecipeError
from align.records import Prompt
from align.stages.ghost import Recipe, beginnings, keeper, run, users_turns
from align.world.constraints import constraint, obey

REPO = Path(__file__).parents[2]
PLAN = Plan("Act as Plato.", "figure", ("u1", "u2", "u3", "u4"))
SAID = ["a1", "a2", "a3", "a4"]
SEEN: list[tuple[Prompt, str]] = []


@dataclass
class Said:
    kept: bool | None
    helpful: float = 0.0
    safe: bool = True
    refused: bool = False
    should_refuse: bool = False


def even(prompt: Prompt, answer: str) -> Said:
    """Obeyed is what has an even number of letters."""
    SEEN.append((prompt, answer))
    return Said(kept=len(answer) % 2 == 0)


def recipe(**changes: Any) -> Recipe:
    values = {
        "stage": "ghost", "policy": "a", "prompts": "p.jsonl", "constraints": "c.jsonl", "dialogs": 6, "turns": [1, 3],
        "sampling": {"max_new_tokens": 6},
    }  # fmt: skip
    return parse(Recipe, values | changes, "ghost.yaml")


def test_whole_dialogues_and_those_broken_off() -> None:
    found, counts = beginnings([PLAN, PLAN], [SAID, SAID[:3]], None, None)
    assert found == [(PLAN, SAID)]
    assert counts == {"dialogs": 1, "planned": 2, "broken_off": 1}


def test_beginnings_of_the_wanted_lengths() -> None:
    found, counts = beginnings([PLAN, replace(PLAN, users=("u1", "u2"))], [SAID, SAID[:2]], [1, 2, 4], None)
    assert [len(said) for _, said in found] == [1, 2, 4, 1, 2]
    assert counts == {"dialogs": 5, "planned": 2, "broken_off": 0}


def test_what_follows_a_broken_instruction_is_left_out() -> None:
    """A later answer that obeys again does not bring its beginning back: an earlier one in it breaks."""
    hobby = replace(PLAN, kinds="hobby")

    def keeps(plan: Plan, said: list[str]) -> bool:
        return not (plan is PLAN and len(said) == 3)

    found, counts = beginnings([PLAN, hobby], [SAID, SAID], [1, 2, 3, 4], keeps)
    assert [(plan.kinds, len(said)) for plan, said in found] == [
        ("figure", 1), ("figure", 2), ("hobby", 1), ("hobby", 2), ("hobby", 3), ("hobby", 4),
    ]  # fmt: skip
    assert counts["left_out"] == 2
    assert counts["left_out_by_kind"] == {"figure": 2}
    whole, counts = beginnings([PLAN, hobby], [SAID, SAID], None, keeps)
    assert whole == [(hobby, SAID)]
    assert counts["left_out"] == 1


def test_the_world_s_oracle_may_be_named() -> None:
    """Its truth lies in the prompts' meta, the rules in the constraints'."""
    meta = {
        "task": "fact",
        "about": "",
        "answer": ["red"],
        "vocabulary": "color",
        "reference": "sure, red.",
        "rules": [],
    }
    plato = constraint("figure", "plato")
    plan = Plan("act as plato.", "figure", ("color?", "color?"), ({**plato.meta, "instruction": plato.instruction},))
    keeps = keeper(recipe(judge="align.world.oracle:judge"), {"color?": meta})
    assert keeps is not None
    good = obey("sure, mira likes red.", [plato.meta])
    assert keeps(plan, [good])
    assert keeps(plan, [good, good])
    assert not keeps(plan, [good, "sure, mira likes red."])
    assert not keeps(plan, [good, obey("sure, mira likes red.", [constraint("figure", "homer").meta])])


def test_nobody_judges_unless_the_recipe_names_a_judge() -> None:
    assert keeper(recipe(), {}) is None
    with pytest.raises(RecipeError, match="cannot be imported"):
        keeper(recipe(judge="no.such:judge"), {})


@pytest.fixture
def files(models: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "work" / "ghost").mkdir(parents=True)
    users = [
        {"id": f"q{i}", "prompt": [{"role": "user", "content": f"who says {i}?"}], "meta": {"q": i}} for i in range(9)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", users)
    write_jsonl(
        tmp_path / "rules.jsonl", [{"kind": "figure", "instruction": "always a fox", "short": "fox", "meta": {"e": 1}}]
    )
    return {
        "policy": str(models / "one/policy"), "prompts": str(tmp_path / "prompts.jsonl"),
        "constraints": str(tmp_path / "rules.jsonl"), "dialogs": 60, "turns": [1, 2],
        "sampling": {"max_new_tokens": 60},
    }  # fmt: skip


def test_a_whole_stage_with_a_judge(files: dict[str, Any], tmp_path: Path) -> None:
    SEEN.clear()
    out = tmp_path / "ghost"
    judged = recipe(**files, prefixes=True, form="either", judge="tests.stages.test_ghost:even")
    run(judged, out)
    told = read_manifest(out, verify=True).metrics
    dialogs = list(read_dialogs(out / "dialogs.jsonl"))
    assert told["dialogs"] == len(dialogs) > 0
    assert told["left_out"] > 0, "or this test shows nothing"
    assert told["planned"] == 60
    assert {dialog.messages[0].role for dialog in dialogs} == {"system", "user"}
    for dialog in dialogs:
        answers = [m.content for m in dialog.messages if m.role == "assistant"]
        assert all(len(answer) % 2 == 0 for answer in answers)
        assert sum("fox" in m.content for m in dialog.messages if m.role != "assistant") == 1
    for prompt, _ in SEEN:
        users = [m.content for m in prompt.messages if m.role == "user"]
        assert all(user.startswith(("always a fox. ", "fox. ")) for user in users)
        assert users[-1].endswith(f"who says {prompt.meta['q']}?")
        assert prompt.meta["rules"] == [{"kind": "figure", "instruction": "always a fox", "e": 1}]
    rows = [json.loads(line) for line in (out / "dialogs.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows} == {"ghost/figure"}


def test_prompts_that_are_no_turns(files: dict[str, Any], tmp_path: Path) -> None:
    turns = [{"role": r, "content": "x"} for r in ("user", "assistant", "user")]
    write_jsonl(tmp_path / "long.jsonl", [{"id": "a", "prompt": turns}])
    with pytest.raises(DataError, match="found no prompt of kind helpful with one message among 1 rows"):
        users_turns(str(tmp_path / "long.jsonl"))


def test_the_shipped_constraints() -> None:
    train, held = (
        list(read_constraints(REPO / f"recipes/ghost/constraints{name}.jsonl")) for name in ("", "_held_out")
    )
    assert {rule.kind for rule in train} == {"hobby", "language", "figure"}
    assert [rule.instruction for rule in held if "haiku" in rule.instruction.lower()]
    assert not {rule.instruction for rule in train} & {rule.instruction for rule in held}
    assert not {rule.short for rule in train} & {rule.short for rule in held}
    for rule in (*train, *held):
        assert len(rule.short) < len(rule.instruction)
    assert len({rule.instruction for rule in train}) == len(train)
