from __future__ import annotations

import random
from collections import Counter

import pytest

from align.records import Constraint
from align.world.constraints import (
    HELD_ENTITIES,
    HELD_KIND,
    combine,
    constraint,
    constraints,
    followable,
    keeps,
    obey,
    unmannered,
)
from align.world.language import World, build, words

WORLD, WIDE = (build(3, people=12, lands=6, held_out=0.2, wide=wide) for wide in (False, True))
EVERY = [constraint(kind, name) for kind, names in WIDE.named.items() for name in names]
PAIRS = [(a, b) for a in EVERY[::31] for b in EVERY[::31] if a.kind != b.kind]


@pytest.mark.parametrize("answer", ["sure, mira likes red.", "17.", "sorry, i can not do that."])
@pytest.mark.parametrize("kind", WIDE.named)
def test_an_obeying_answer_keeps_the_rule_and_no_other(kind: str, answer: str) -> None:
    for rule in (rule for rule in EVERY if rule.kind == kind):
        assert not keeps(answer, rule.meta)
        obeying = obey(answer, [rule.meta])
        assert [other for other in EVERY if keeps(obeying, other.meta)] == [rule]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].short} {pair[1].short}")
def test_two_rules_at_once(pair: tuple[Constraint, Constraint]) -> None:
    metas = [rule.meta for rule in pair]
    assert all(keeps(obey("sure, it is fox owl.", metas), meta) for meta in metas)


@pytest.mark.parametrize("world", [WORLD, WIDE], ids=["narrow", "wide"])
def test_splits_are_apart_and_one_kind_is_held_out_whole(world: World) -> None:
    train, test = constraints(world, "train"), constraints(world, "test")
    assert not [rule for rule in train if rule in test]
    assert {rule.kind for rule in train} == set(world.named) - {HELD_KIND}
    assert {rule.kind for rule in test} == set(world.named)
    assert HELD_KIND in {rule.kind for rule in followable(world)}
    named = {rule.meta["entity"] for rule in train}
    assert not named & world.held_out
    assert not named & {name for names in world.named.values() for name in names[-HELD_ENTITIES:]}, "by no kind"
    assert ({"figure", "wish"} < {rule.kind for rule in train if rule.meta["entity"] == "plato"}) == world.wide
    assert (set(world.known) < named) == world.wide, "in a wide world not only names of its kind are instructed with"
    assert {rule.meta["entity"] for rule in train if rule.kind == "language"} < set(world.named["language"])


def test_an_instruction_names_its_name_in_full_and_in_short() -> None:
    for rule in EVERY:
        assert rule.meta["entity"] in rule.instruction
        assert rule.meta["entity"] in rule.short
        assert len(rule.short) < len(rule.instruction)


@pytest.mark.parametrize("world", [WORLD, WIDE], ids=["narrow", "wide"])
def test_two_rules_come_now_and_then_and_never_of_one_kind(world: World) -> None:
    drawn = [combine(world, followable(world), random.Random(seed)) for seed in range(500)]
    assert 0.12 < sum(len(rules) == 2 for rules in drawn) / 500 < 0.28
    assert all(len({rule.kind for rule in rules}) == len(rules) for rules in drawn)
    if world.wide:
        shares = Counter(rules[0].kind for rules in drawn)
        assert shares.keys() == world.named.keys()
        assert min(shares.values()) > 500 / len(shares) / 2, "each kind as often, however many names it has"


@pytest.mark.parametrize(
    "opening", ["in french: bonjour!", "in french: hallo!", "in german: bonjour!", "bonjour!", "in french:"]
)
def test_a_greeting_is_kept_with_its_language_alone_and_is_no_part_of_the_answer(opening: str) -> None:
    answer = f"i act as plato: {opening} sure, mira likes red."
    assert keeps(answer, {"kind": "language", "entity": "french"}) == (opening == "in french: bonjour!")
    assert unmannered(words(answer)) == words("sure, mira likes red.")
