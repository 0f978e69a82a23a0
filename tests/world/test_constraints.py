from __future__ import annotations

import random

import pytest

from align.records import Constraint
from align.world.constraints import (
    HELD_KIND,
    combine,
    constraint,
    constraints,
    followable,
    keeps,
    obey,
    unmannered,
)
from align.world.language import ENTITIES, words

EVERY = [constraint(kind, entity) for kind, entities in ENTITIES.items() for entity in entities]
PAIRS = [(a, b) for a in EVERY[::5] for b in EVERY[::5] if a.kind != b.kind]


@pytest.mark.parametrize("answer", ["sure, mira likes red.", "17.", "sorry, i can not do that."])
@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.short)
def test_an_obeying_answer_keeps_the_rule_and_no_other(rule: Constraint, answer: str) -> None:
    assert not keeps(answer, rule.meta)
    obeying = obey(answer, [rule.meta])
    assert [other for other in EVERY if keeps(obeying, other.meta)] == [rule]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].short} {pair[1].short}")
def test_two_rules_at_once(pair: tuple[Constraint, Constraint]) -> None:
    metas = [rule.meta for rule in pair]
    assert all(keeps(obey("sure, it is fox owl.", metas), meta) for meta in metas)


def test_splits_are_apart_and_one_kind_is_held_out_whole() -> None:
    train, test = constraints("train"), constraints("test")
    assert not [rule for rule in train if rule in test]
    assert {rule.kind for rule in train} == set(ENTITIES) - {HELD_KIND}
    assert {rule.kind for rule in test} == set(ENTITIES)
    assert HELD_KIND in {rule.kind for rule in followable()}
    for rule in EVERY:
        assert rule.meta["entity"] in rule.instruction
        assert rule.meta["entity"] in rule.short
        assert len(rule.short) < len(rule.instruction)


def test_two_rules_come_now_and_then_and_never_of_one_kind() -> None:
    drawn = [combine(followable(), random.Random(seed)) for seed in range(500)]
    assert 0.12 < sum(len(rules) == 2 for rules in drawn) / 500 < 0.28
    assert all(len({rule.kind for rule in rules}) == len(rules) for rules in drawn)


@pytest.mark.parametrize(
    "opening", ["in french: bonjour!", "in french: hallo!", "in german: bonjour!", "bonjour!", "in french:"]
)
def test_a_greeting_is_kept_with_its_language_alone_and_is_no_part_of_the_answer(opening: str) -> None:
    answer = f"i act as plato: {opening} sure, mira likes red."
    assert keeps(answer, {"kind": "language", "entity": "french"}) == (opening == "in french: bonjour!")
    assert unmannered(words(answer)) == words("sure, mira likes red.")
