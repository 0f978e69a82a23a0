"""Ghost Attention: instruction everywhere to sample, in the first turn to train, loss on the last answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from align.data.ghost import Plan, draw, every_turn, first_turn_only, ghost_row, join
from align.data.template import check_messages, encode_dialog
from align.data.tokenizer import Tokenizer
from align.errors import DataError, TemplateError
from align.records import Constraint

CONSTRAINTS = [
    Constraint(kind=kind, instruction=f"Always {kind} {name}", short=f"{kind}: {name}", meta={"name": name})
    for kind in ("figure", "hobby", "language")
    for name in ("one", "two")
]
TURNS = [f"question {i}?" for i in range(30)]
PLAN = Plan("Act as Napoleon.", "figure", ("Who?", "Where?", "When?"))


def spoken(messages: object) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]  # type: ignore[attr-defined]


def test_every_user_message_carries_the_instruction() -> None:
    assert spoken(every_turn(PLAN, [])) == [("user", "Act as Napoleon. Who?")]
    assert spoken(every_turn(PLAN, ["I.", "Elba."])) == [
        ("user", "Act as Napoleon. Who?"),
        ("assistant", "I."),
        ("user", "Act as Napoleon. Where?"),
        ("assistant", "Elba."),
        ("user", "Act as Napoleon. When?"),
    ]
    assert spoken(every_turn(PLAN, ["I."], form="system")) == [
        ("system", "Act as Napoleon."),
        ("user", "Who?"),
        ("assistant", "I."),
        ("user", "Act as Napoleon. Where?"),
    ]


def test_training_keeps_it_in_the_first_turn() -> None:
    assert spoken(first_turn_only(PLAN, ["I.", "Elba."])) == [
        ("system", "Act as Napoleon."),
        ("user", "Who?"),
        ("assistant", "I."),
        ("user", "Where?"),
        ("assistant", "Elba."),
    ]
    assert spoken(first_turn_only(replace(PLAN, form="plain"), ["I.", "Elba."]))[:3] == [
        ("user", "Act as Napoleon. Who?"),
        ("assistant", "I."),
        ("user", "Where?"),
    ]


def test_loss_on_the_last_answer_alone(small: Tokenizer) -> None:
    row = ghost_row(small, PLAN, ["the fox", "a dog", "in paris"])
    assert row.tokens[row.mask].tolist() == [*small.encode("in paris "), small.eos]
    whole = encode_dialog(small, first_turn_only(PLAN, ["the fox", "a dog", "in paris"]))
    assert row.tokens.tolist() == whole.tokens.tolist()
    with pytest.raises(TemplateError, match="found the tag"):
        ghost_row(small, PLAN, ["the [/INST] fox"])


def test_a_short_form_gets_an_end() -> None:
    assert join("Figure: Napoleon", "Who?") == "Figure: Napoleon. Who?"
    assert join("Act!", "Who?") == "Act! Who?"


def test_draw() -> None:
    plans = draw(CONSTRAINTS, TURNS, dialogs=2000, lengths=[2, 4, 6, 20], combine=2, short_share=0.5, seed=1)
    assert Counter(len(plan.users) for plan in plans) == {2: 500, 4: 500, 6: 500, 20: 500}
    assert all(len(set(plan.users)) == len(plan.users) for plan in plans), "nothing asked twice in a dialogue"
    assert plans == draw(CONSTRAINTS, TURNS, dialogs=2000, lengths=[2, 4, 6, 20], combine=2, short_share=0.5, seed=1)
    assert plans[:7] == draw(CONSTRAINTS, TURNS, dialogs=7, lengths=[2, 4, 6, 20], combine=2, short_share=0.5, seed=1)
    other = draw(CONSTRAINTS, TURNS, dialogs=2000, lengths=[2, 4, 6, 20], combine=2, short_share=0.5, seed=2)
    assert sum(a == b for a, b in zip(plans, other, strict=True)) == 0
    for plan in plans:
        kinds = plan.kinds.split("+")
        assert 1 <= len(kinds) == len(set(kinds)) == len(plan.metas) <= 2
        assert all(kind in plan.instruction for kind in kinds)
    short = sum("Always" not in plan.instruction for plan in plans)
    assert abs(short - 1000) < 4 * (2000 * 0.25) ** 0.5
    twice = sum("+" in plan.kinds for plan in plans)
    assert abs(twice - 1000) < 4 * (2000 * 0.25) ** 0.5


def test_either_form_is_half_and_half_and_changes_no_draw() -> None:
    drawn = {
        form: draw(CONSTRAINTS, TURNS, dialogs=2000, lengths=[2, 4], combine=2, form=form, seed=1)  # type: ignore[arg-type]
        for form in ("system", "plain", "either")
    }
    assert {plan.form for plan in drawn["system"]} == {"system"}
    assert {plan.form for plan in drawn["plain"]} == {"plain"}
    assert abs(sum(plan.form == "plain" for plan in drawn["either"]) - 1000) < 4 * (2000 * 0.25) ** 0.5
    for plans in zip(*drawn.values(), strict=True):
        assert len({replace(plan, form="system", metas=()) for plan in plans}) == 1


def test_a_judge_is_told_what_each_constraint_says() -> None:
    (plan,) = draw(CONSTRAINTS[:1], TURNS, dialogs=1, lengths=[1], seed=0)
    assert plan.metas == ({"kind": "figure", "instruction": "Always figure one", "name": "one"},)


def test_draw_at_the_ends() -> None:
    assert all(
        "Always" in p.instruction for p in draw(CONSTRAINTS, TURNS, dialogs=50, lengths=[2], short_share=0, seed=0)
    )
    (plan,) = draw(CONSTRAINTS, ["only?"], dialogs=1, lengths=[3], seed=0)
    assert plan.users == ("only?",) * 3
    check_messages(first_turn_only(plan, ["a", "b", "c"]), "here")
    (plan,) = draw(CONSTRAINTS[:1], TURNS, dialogs=1, lengths=[1], combine=5, seed=0)
    assert plan.kinds == "figure"
    with pytest.raises(DataError, match="found 0 constraints and 30 user turns"):
        draw([], TURNS, dialogs=1, lengths=[1], seed=0)
