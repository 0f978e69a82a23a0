"""What an evaluation asks, shows its judge and counts; and a whole one with both kinds of judge, at toy size."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest
from align.config import parse
from align.data.explain import explain
from align.errors import DataError, RecipeError
from align.records import Message, Prompt
from align.stages.evaluate import Recipe, run
from align.stages.judges import load_function, load_judge
from align.stages.obedience import asked, at_turn, obedience, users
from align.stages.tallies import mean, mean_of_known, share, summary
from tests.fakes import LetterTokenizer


@dataclass
class Said:
    helpful: float = 0.5
    safe: bool = True
    refused: bool = False
    should_refuse: bool = False
    kept: bool | None = None


def long_answers(prompt: Prompt, answer: str) -> Said:
    """A judge who likes long answers, and takes a long one for obedience."""
    return Said(helpful=len(answer) / 100, kept=len(answer) > 8, safe="a" in answer, should_refuse=prompt.id == "p1")


def length(prompt: Prompt, answer: str) -> int:
    return len(answer)


def longer(prompt: Prompt, first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"


NOT_A_FUNCTION = 3


def dialogue(*contents: str, system: str | None = None, meta: dict[str, Any] | None = None) -> Prompt:
    """User and assistant in turns."""
    first = [Message("system", system)] if system else []
    rest = [Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]
    return Prompt(id="d", messages=(*first, *rest), meta=meta or {})


def told(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


LONG = dialogue("u1", "written", "u2", "written", "u3", system="obey", meta={"turns": [{"t": 1}, {"t": 2}, {"t": 3}]})


def test_users_are_the_users_messages() -> None:
    assert [message.content for message in users(LONG)] == ["u1", "u2", "u3"]


def test_the_policys_answers_stand_in_place_of_the_written_ones() -> None:
    assert told(asked(LONG, [])) == [("system", "obey"), ("user", "u1")]
    assert told(asked(LONG, ["mine", "own"])) == [
        ("system", "obey"), ("user", "u1"), ("assistant", "mine"), ("user", "u2"), ("assistant", "own"), ("user", "u3"),
    ]  # fmt: skip
    assert told(asked(dialogue("u1", "written", "u2"), ["mine"])) == [
        ("user", "u1"), ("assistant", "mine"), ("user", "u2"),
    ]  # fmt: skip


def test_the_judge_is_shown_the_dialogue_before_the_answer_and_that_turns_meta() -> None:
    answers = ["a1", "a2", "a3"]
    for turn in (1, 2, 3):
        shown = at_turn(LONG, answers, turn)
        assert shown.meta == {"t": turn}
        assert shown.messages == asked(LONG, answers[: turn - 1])
        assert shown.messages[-1] == Message("user", f"u{turn}")
    assert at_turn(dialogue("u1", "w", "u2", meta={"whole": 1}), answers, 2).meta == {"whole": 1}


def test_shares_are_of_those_whom_they_concern() -> None:
    """Unsafe counts among requests that ask for harm, refusals among the others."""
    found = summary(
        [
            Said(helpful=1.0),
            Said(helpful=0.0, refused=True),
            Said(helpful=0.5, safe=False),
            Said(helpful=0.0, should_refuse=True, refused=True),
            Said(helpful=1.0, should_refuse=True, safe=False),
        ]
    )
    assert found["helpful"] == pytest.approx({"mean": 0.5, "se": (1.0 / 4 / 5) ** 0.5, "n": 5}, abs=1e-15)
    assert (found["unsafe"]["share"], found["unsafe"]["n"]) == (0.5, 2)
    assert (found["false_refusals"]["share"], found["false_refusals"]["n"]) == (pytest.approx(1 / 3, abs=1e-15), 3)


def test_nothing_to_count_is_null_and_not_zero() -> None:
    assert mean_of_known([None, None]) == {"mean": None, "se": None, "n": 0}
    assert mean_of_known([None, 2.0, 4.0]) == mean([2.0, 4.0])
    assert share([]) == {"share": None, "low": 0.0, "high": 1.0, "n": 0}
    assert summary([Said()])["unsafe"]["share"] is None


def test_mean_and_share_by_hand() -> None:
    assert mean(iter([1.0, 2.0, 6.0])) == pytest.approx({"mean": 3.0, "se": (14 / 2 / 3) ** 0.5, "n": 3}, abs=1e-15)
    # Wilson 1927 with z = 1.96: 3 of 4
    z2, half = 1.96**2, 1.96 * (0.75 * 0.25 / 4 + 1.96**2 / 64) ** 0.5
    expected = {
        "share": 0.75,
        "low": (0.75 + z2 / 8 - half) / (1 + z2 / 4),
        "high": (0.75 + z2 / 8 + half) / (1 + z2 / 4),
    }
    assert share(iter([True, False, True, True])) == pytest.approx(expected | {"n": 4}, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no.such.module:judge", "cannot be imported"),
        ("align.world.oracle:jury", "jury"),
        ("align.world.oracle", "cannot be imported as package.module:function"),
        ("", "cannot be imported"),
        (".oracle:judge", "cannot be imported"),
        ("tests.stages.test_evaluate:NOT_A_FUNCTION", "is a int, expected a function"),
    ],
)
def test_a_judge_that_is_none(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as error:
        load_judge(name)
    assert repr(name) in str(error.value)


def test_a_judge_is_loaded_by_name() -> None:
    from align.world.oracle import judge

    assert load_function("align.world.oracle:judge", "judge").function is judge


REWARDS = {"helpful": "h", "safety": "s", "threshold": 0.15}


def recipe(**changes: Any) -> Recipe:
    values = {
        "stage": "evaluate", "policies": {"SFT": "a"}, "reference": "a", "prompts": "p.jsonl",
        "sampling": {"max_new_tokens": 6},
    }  # fmt: skip
    return parse(Recipe, values | changes, "evaluate.yaml")


@pytest.mark.parametrize("given", [{}, {"rewards": REWARDS, "dialogues": {"prompts": "d.jsonl", "turns": [1]}}])
def test_an_evaluation_that_nobody_judges_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.yaml.*judge: must be given"):
        recipe(**given)


def test_reward_models_alone_or_a_judge_alone_will_do() -> None:
    assert recipe(rewards=REWARDS).judge is None
    assert recipe(judge="m:f", dialogues={"prompts": "d.jsonl", "turns": [1]}).rewards is None


def evaluated(models: Path, out: Path, policies: dict[str, str], **more: Any) -> dict[str, Any]:
    (out.parent / "work" / out.name).mkdir(parents=True)
    run(
        recipe(
            policies={name: str(models / path) for name, path in policies.items()},
            reference=str(models / "one/policy"),
            judge="tests.stages.test_evaluate:long_answers",
            rewards={"helpful": str(models / "helpful"), "safety": str(models / "safety"), "threshold": 0.15},
            prompts=str(models / "prompts.jsonl"),
            dialogues={"prompts": str(models / "dialogues.jsonl"), "turns": [1, 2]},
            **more,
        ),
        out,
    )
    metrics: dict[str, Any] = read_manifest(out, verify=True).metrics["policies"]
    return metrics


def test_policies_of_one_folder_name_are_told_apart(models: Path, tmp_path: Path) -> None:
    """Their dialogues' journals once had the folder's name: the second policy was given the first one's answers."""
    both = evaluated(models, tmp_path / "both", {"A": "one/policy", "B": "two/policy"})
    alone = evaluated(models, tmp_path / "alone", {"B": "two/policy"})
    assert both["B"] == alone["B"]
    assert both["A"]["kept"] != both["B"]["kept"], "or this test could not fail"


def test_turns_that_a_dialogue_or_its_context_has_no_room_for_are_left_out(tmp_path: Path) -> None:
    """Three users' turns, an answer of a letter each; of the first dialogue the context ends before the third."""
    from tests.rollout.test_converse import Scripted

    short, long = dialogue("u1", "w", "u2", "w", "u3"), dialogue("u1", "w", "u2", "w", "u" * 900)
    asking = recipe(judge="m:f", dialogues={"prompts": "d.jsonl", "turns": [2, 3, 20]})
    script = {(1, 0): "x" * 9, (1, 1): ""}  # the second dialogue's second answer cannot go on

    def kept(dialogues: list[Prompt], name: str) -> dict[int, dict[str, list[bool]]]:
        return obedience(
            Scripted(script), LetterTokenizer(), dialogues, long_answers, asking, tmp_path / name, 500,  # type: ignore[arg-type]
        )  # fmt: skip

    assert kept([long], "one") == {2: {"": [False]}, 3: {}, 20: {}}
    roomy = {"prompts": "d.jsonl", "turns": [2, 3, 20], "sampling": {"max_new_tokens": 480}}  # of a context of 500
    tight = obedience(
        Scripted(), LetterTokenizer(), [short], long_answers, recipe(judge="m:f", dialogues=roomy), tmp_path / "t", 500,  # type: ignore[arg-type]
    )  # fmt: skip
    assert tight == {2: {}, 3: {}, 20: {}}, "the dialogues' own sampling says how much room an answer takes"
    assert kept([long, short], "two") == {2: {"": [False, False]}, 3: {"": [False]}, 20: {}}


def test_both_kinds_of_judge_in_one_table(models: Path, tmp_path: Path) -> None:
    table = evaluated(models, tmp_path / "out", {"A": "one/policy"})["A"]
    judged, read = {"helpful", "unsafe", "false_refusals", "kept", "kept_by_source"}, {"kl", "tokens"}
    assert table.keys() == {*judged, *read, "reward", "safety"}
    assert abs(table["kl"]["mean"]) < 1e-5, "the reference itself"
    assert table["unsafe"]["n"] == table["false_refusals"]["n"] == 1
    assert {turn: cell["n"] for turn, cell in table["kept"].items()} == {"1": 6, "2": 6}
    rows = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    scores = [row["scores"] for row in rows]
    assert all(score.keys() == {"helpful", "safety", "combined"} for score in scores)
    assert statistics.fmean(score["combined"] for score in scores) == pytest.approx(table["reward"]["mean"], abs=1e-6)
    adversarial = [row["scores"]["safety"] for row in rows if row["prompt_id"] == "p1"]
    assert (table["safety"]["mean"], table["safety"]["n"]) == (pytest.approx(*adversarial, abs=1e-6), 1)
    assert all(isinstance(row["helpful"], float) for row in rows), "the judge's own word beside them"


def test_helpfulness_by_a_value_of_the_prompts(models: Path, home: Path, tmp_path: Path) -> None:
    """A figure and a table of it; five prompts of two sources, each with a number of its own."""
    from align.report.grouped import grouped

    (tmp_path / "work" / "by").mkdir(parents=True)
    policy = str(models / "one/policy")
    asking = recipe(
        policies={"A": policy, "B": str(models / "two/policy")}, reference=policy, by="number",
        judge="tests.stages.test_evaluate:long_answers", prompts=str(home / "first.jsonl"),
    )  # fmt: skip
    run(asking, tmp_path / "by")
    manifest = read_manifest(tmp_path / "by", verify=True)
    rows = [json.loads(line) for line in (tmp_path / "by/answers.jsonl").read_text().splitlines()]
    for name in ("A", "B"):
        said = {row["prompt_id"]: row["helpful"] for row in rows if row["policy"] == name}
        found = manifest.metrics["policies"][name]["by"]
        assert {source: list(cells) for source, cells in found.items()} == {"of/0": ["0", "2", "4"], "of/1": ["1", "3"]}
        assert all(cell["mean"] == said[f"p{at}"] for cells in found.values() for at, cell in cells.items())
    figures = json.loads((tmp_path / "by/figures.json").read_text())
    assert [[s["name"] for s in figure["series"]] for figure in figures] == [["A", "B"], ["A", "B"]]
    first, second = grouped(manifest)
    assert first.columns == ["policy", "0", "2", "4"]
    assert second.title == "Helpful by number, of/1 (1 prompts a cell)"
    assert second.rows[1] == ["B", *(f"{100 * found['of/1'][at]['mean']:.0f} %" for at in ("1", "3"))]


def test_by_needs_a_judge_and_a_value_of_every_prompt(models: Path, home: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="judge: must be given where `by` is"):
        recipe(rewards=REWARDS, by="number")
    (tmp_path / "work" / "by").mkdir(parents=True)
    policy = str(models / "one/policy")
    asking = recipe(
        policies={"A": policy}, reference=policy, by="date", judge="tests.stages.test_evaluate:long_answers",
        prompts=str(home / "first.jsonl"),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"first\.jsonl: prompt p0: meta\.date: found None"):
        run(asking, tmp_path / "by")


def test_every_kind_of_judge_compares_every_pair(models: Path, tmp_path: Path) -> None:
    here = "tests.stages.test_evaluate"
    judges = {
        "length": {"score": f"{here}:length"}, "longer": {"compare": f"{here}:longer"},
        "rm": {"reward": str(models / "helpful")},
    }  # fmt: skip
    names = {"A": "one/policy", "B": "two/policy", "C": "one/policy"}
    table = evaluated(models, tmp_path / "out", names, judges=judges)
    assert table["A"]["judges"].keys() == {"length", "rm"}
    told = json.loads((tmp_path / "out/win_rates.json").read_text())
    assert explain("win_rates", told) is None
    found = {(pair["judge"], pair["first"], pair["second"]): pair for pair in told["pairs"]}
    single = ["judge", "rewards", "rewards/helpful", "rewards/safety", "length", "rm", "longer"]
    assert list(found) == [(judge, *pair) for pair in (("B", "A"), ("C", "A"), ("C", "B")) for judge in single]
    rows = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    assert [row["judges"]["length"] for row in rows] == [len(row["answer"]) for row in rows]
    said = {name: [row["answer"] for row in rows if row["policy"] == name] for name in names}
    for pair in (("B", "A"), ("C", "A"), ("C", "B")):
        gaps = [len(a) - len(b) for a, b in zip(*(said[name] for name in pair), strict=True)]
        counts = [sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps), sum(gap == 0 for gap in gaps)]
        for judge in ("length", "longer"):
            assert [found[judge, *pair][key] for key in ("wins", "losses", "ties")] == counts
    assert found["rewards", "C", "A"]["ties"] == 2, "one and the same policy"
    compared = [json.loads(line) for line in (tmp_path / "out/comparisons.jsonl").read_text().splitlines()]
    assert [explain("comparison", row) for row in compared] == [None] * len(compared)
    parents = {entry["name"] for entry in read_manifest(tmp_path / "out").parents}
    assert parents == {"policy", "helpful", "safety"}
