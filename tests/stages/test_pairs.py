"""Pairs of policies: who is shown first, what is asked, what is kept, what is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from align.data.explain import explain
from align.errors import RolloutError
from align.measures.win_rate import win_rate
from align.records import Message, Prompt
from align.stages.judges import Called
from align.stages.pairs import compare_policies, scored_judges, shown_first

PROMPTS = {f"p{i}": Prompt(id=f"p{i}", messages=(Message("user", f"question {i}"),)) for i in range(6)}


def rows(policy: str, answers: list[str], **more: list[Any]) -> list[dict[str, Any]]:
    return [
        {"policy": policy, "prompt_id": f"p{i}", "answer": answer, **{key: values[i] for key, values in more.items()}}
        for i, answer in enumerate(answers)
    ]


class Shorter:
    """Prefers the shorter answer, and remembers what it was shown."""

    def __init__(self, fails_at: int = 99) -> None:
        self.shown: list[tuple[str, str, str]] = []
        self.fails_at = fails_at

    def __call__(self, prompt: Prompt, first: str, second: str) -> str:
        if len(self.shown) == self.fails_at:
            raise ConnectionError("gone")
        self.shown.append((prompt.id, first, second))
        return "tie" if len(first) == len(second) else "first" if len(first) < len(second) else "second"


ANSWERS = {
    "old": rows("old", ["aaa", "bbb", "ccc", "ddd", "eee", "same"]),
    "new": rows("new", ["a", "bb", "cccc", "xxx", "e", "same"]),
}


def asked(tmp_path: Path, judge: Shorter, answers: Any = ANSWERS, seed: int = 3) -> tuple[dict[str, Any], Any]:
    return compare_policies(answers, PROMPTS, {"brief": Called("judges.brief: m:f", judge)}, seed, tmp_path / "l.jsonl")


def test_a_judge_of_two_by_hand(tmp_path: Path) -> None:
    judge = Shorter()
    told, compared = asked(tmp_path, judge)
    (pair,) = told["pairs"]
    assert (pair["judge"], pair["first"], pair["second"]) == ("brief", "new", "old"), "the later one's wins"
    assert (pair["wins"], pair["losses"], pair["ties"]) == (3, 1, 2), "the answers that are the same tie unasked"
    lengths = [(1, 3), (2, 3), (4, 3), (3, 3), (1, 3), (4, 4)]
    assert {key: pair[key] for key in win_rate([], [])} == win_rate([1, 1, -1, 0, 1, 0], lengths)
    assert len(judge.shown) == len(compared) == 5
    assert explain("win_rates", json.loads(json.dumps(told))) is None
    assert [explain("comparison", row) for row in compared] == [None] * 5
    for row, (prompt, first, second) in zip(compared, judge.shown, strict=True):
        texts = {name: answers[int(prompt[1:])]["answer"] for name, answers in ANSWERS.items()}
        assert (row["prompt_id"], texts[row["first"]], texts[row["second"]]) == (prompt, first, second)
        assert row["winner"] == {"first": row["first"], "second": row["second"], "tie": None}[row["said"]]
    assert {row["first"] for row in compared} == {"old", "new"}, "both are shown first now and then"


def test_a_judge_that_takes_whatever_is_shown_first_wins_for_neither(tmp_path: Path) -> None:
    """Position alone decides: the win rate of 2,000 prompts is one half within 4 standard errors."""
    n = 2000
    answers = {name: [{"policy": name, "prompt_id": f"p{i}", "answer": name} for i in range(n)] for name in ("a", "b")}
    prompts = {f"p{i}": Prompt(id=f"p{i}", messages=()) for i in range(n)}
    first = Counter(shown_first(0, f"p{i}", ("a", "b")) for i in range(n))
    assert abs(first["a"] / n - 0.5) < 4 * (0.25 / n) ** 0.5
    few = {name: rows[:40] for name, rows in answers.items()}
    told, _ = compare_policies(few, prompts, {"j": Called("j", lambda *_: "first")}, 0, tmp_path / "l.jsonl")
    assert told["pairs"][0]["wins"] == sum(shown_first(0, f"p{i}", ("a", "b")) == "b" for i in range(40))


def test_the_order_is_addressed() -> None:
    ids = [f"p{i}" for i in range(64)]
    drawn = [shown_first(0, i, ("a", "b")) for i in ids]
    assert drawn == [shown_first(0, i, ("b", "a")) for i in ids], "not by which policy comes first in the recipe"
    assert drawn != [shown_first(1, i, ("a", "b")) for i in ids]
    assert drawn != [shown_first(0, i, ("a", "c")) for i in ids]


def test_what_was_said_before_a_kill_is_not_asked_again(tmp_path: Path) -> None:
    first = Shorter(fails_at=3)
    with pytest.raises(RolloutError, match=r"judges\.brief: m:f failed on prompt 'p3': ConnectionError: gone"):
        asked(tmp_path, first)
    with (tmp_path / "l.jsonl").open("a") as file:
        file.write('["half a li')
    again = Shorter()
    told = asked(tmp_path, again)
    assert [prompt for prompt, _, _ in again.shown] == ["p3", "p4"]
    (tmp_path / "other").mkdir()
    assert told == asked(tmp_path / "other", Shorter()), "as if nothing had happened"


def test_every_judge_of_single_answers_and_every_pair(tmp_path: Path) -> None:
    def scores(values: list[float]) -> list[dict[str, float]]:
        return [{"helpful": v, "safety": -v, "combined": 2 * v} for v in values]

    answers = {
        name: rows(
            name, [f"{name}{i}" for i in range(3)], helpful=[0.5, 0.5, shift], scores=scores([shift, 0.0, -1.0]),
            judges=[{"rm": None}, {"rm": shift}, {"rm": None if name == "c" else 0.0}],
        )
        for name, shift in (("a", 0.0), ("b", 1.0), ("c", 2.0))
    }  # fmt: skip
    told, compared = compare_policies(answers, PROMPTS, {}, 0, tmp_path / "l.jsonl")
    assert compared == []
    assert not (tmp_path / "l.jsonl").exists()
    assert told["prompts"] == 3
    assert explain("win_rates", json.loads(json.dumps(told))) is None
    found = {(p["judge"], p["first"], p["second"]): (p["wins"], p["losses"], p["ties"]) for p in told["pairs"]}
    pairs = [("b", "a"), ("c", "a"), ("c", "b")]
    assert list(scored_judges(answers["a"][0])) == ["judge", "rewards", "rewards/helpful", "rewards/safety", "rm"]
    assert len(found) == 5 * 3
    for pair in pairs:
        assert found["judge", *pair] == (1, 0, 2)
        assert found["rewards", *pair] == found["rewards/helpful", *pair] == (1, 0, 2)
        assert found["rewards/safety", *pair] == (0, 1, 2)
    assert found["rm", "b", "a"] == (1, 0, 2)
    assert found["rm", "c", "a"] == (1, 1, 1), "an answer without a score loses to one that has one"


def test_the_same_answer_ties_whatever_rounding_says(tmp_path: Path) -> None:
    answers = {"a": rows("a", ["x"], helpful=[0.1]), "b": rows("b", ["x"], helpful=[0.1 + 1e-9])}
    told, _ = compare_policies(answers, PROMPTS, {}, 0, tmp_path / "l.jsonl")
    assert told["pairs"][0]["ties"] == 1


def test_one_policy_has_nobody_to_beat(tmp_path: Path) -> None:
    told, _ = compare_policies({"a": rows("a", ["x"], helpful=[0.1])}, PROMPTS, {}, 0, tmp_path / "l.jsonl")
    assert told["pairs"] == []
