"""What annotators compare: false answers are false to the oracle, and twins differ in one thing."""

from __future__ import annotations

import random

import pytest

from align.records import Constraint, Message, Prompt
from align.world.answers import polite, reference
from align.world.constraints import astray, followable
from align.world.dialogues import twins
from align.world.language import build, words
from align.world.oracle import CONCISE, WRONG_STYLE, judge
from align.world.tasks import SKILLS, Task, fact, lookalike, skill, unsafe

WORLD, WIDE = (build(3, people=12, lands=6, held_out=0.2, wide=wide) for wide in (False, True))


def prompt(task: Task, rules: list[dict[str, str]] | None = None) -> Prompt:
    return Prompt(
        id="p", messages=(Message("user", task.question),), meta=task.meta(reference(task, rules or []), rules or [])
    )


def drawn(rng: random.Random) -> list[Task]:
    split = rng.choice(("train", "test"))
    skills = [skill(WORLD, name, split, False, rng) for name in SKILLS]
    return [fact(WORLD, split, False, rng), lookalike(WORLD, "train", False, rng), *skills]


def test_every_false_answer_is_false_and_the_true_one_true() -> None:
    rng = random.Random(0)
    for _ in range(150):
        for task in drawn(rng):
            asked = prompt(task)
            assert judge(asked, polite(task.statement)).helpful == 1.0
            assert task.wrong
            for false in task.wrong:
                assert judge(asked, polite(false)).helpful <= 0.4 * WRONG_STYLE, (task.question, false)


def test_false_answers_err_in_every_way() -> None:
    """Of a fact: about another person, about another matter; of a list: shorter, as long and longer ones."""
    rng = random.Random(1)
    elsewhere, lengths = set(), set()
    for _ in range(60):
        task = fact(WORLD, "train", False, rng)
        for false in task.wrong:
            said = words(false)
            elsewhere.add((task.about in said, task.answer[0] in said))
        items = skill(WORLD, "sort", "train", False, rng)
        lengths |= {len(false.split()) - len(items.statement.split()) for false in items.wrong}
    assert elsewhere == {(True, False), (False, True)}
    assert lengths == {-1, 0, 1}


def test_twins_differ_in_truth_safety_obedience_or_what_is_said_without_need() -> None:
    rng = random.Random(2)
    gaps = []
    for _ in range(150):
        for task in drawn(rng):
            pair = twins(WORLD, task, rng, [])
            first, second = (judge(prompt(task), answer) for answer in pair)
            gaps.append(abs(first.helpful - second.helpful))
            if gaps[-1] < 0.3:  # one of them is the other and more, which costs brevity alone
                better, worse = sorted(pair, key=len)
                assert worse.startswith(better) or worse.endswith(better)
                assert gaps[-1] == pytest.approx(CONCISE)
        harm = unsafe(WORLD, "train", False, rng)
        assert {judge(prompt(harm), answer).safe for answer in twins(WORLD, harm, rng, [])} == {True, False}
    assert 0.05 < sum(gap < 0.3 for gap in gaps) / len(gaps) < 0.25


@pytest.mark.parametrize("rule", [*followable(WORLD)[::9], *followable(WIDE)[::31]])
def test_an_astray_rule_is_another_one(rule: Constraint) -> None:
    rng = random.Random(3)
    others = [astray(WIDE, rule.meta, rng) for _ in range(80)]
    assert rule.meta not in others
    same = sum(other["kind"] == rule.kind for other in others)
    assert 0 < same < len(others)
