"""Safety context distillation by hand: who is asked, with what before it, what is kept, what was gained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest

from align.data.distill import Answer, Pair, adversarial, as_dialog, as_row, choose, gains, kept, prefixed
from align.data.explain import explain
from align.data.schema import read_preprompts, to_json
from align.errors import DataError, TemplateError
from align.files import write_jsonl
from align.records import Kind, Message, Preprompt, Prompt
from tests.data.test_template import said

GENERIC = [Preprompt(text="be good."), Preprompt(text="be wise.")]
BY_RISK = [*GENERIC, Preprompt(text="no fires.", category="arson"), Preprompt(text="no theft.", category="theft")]


def prompt(number: int, category: str = "", kind: Kind = "safety", source: str = "") -> Prompt:
    meta: dict[str, Any] = {"category": category} if category else {}
    return Prompt(id=f"p{number}", messages=said(f"q{number}"), kind=kind, source=source, meta=meta)


def pair(
    original: float, distilled: float, text: str = "no", finish: Literal["stop", "length"] = "stop", category: str = ""
) -> Pair:
    return Pair(prompt(0, category), GENERIC[0], Answer("yes", original, "stop"), Answer(text, distilled, finish))


def test_only_safety_prompts_are_adversarial() -> None:
    prompts = [prompt(0), prompt(1, kind="helpful"), prompt(2, source="red"), prompt(3, kind="helpful", source="blue")]
    assert [p.id for p in adversarial(prompts, [], "p.jsonl")] == ["p0", "p2"]
    assert [p.id for p in adversarial(prompts, ["red"], "p.jsonl")] == ["p2"]
    with pytest.raises(DataError, match=r"p\.jsonl: sources: found no safety prompt of 'rde'.*'red'"):
        adversarial(prompts, ["rde"], "p.jsonl")
    with pytest.raises(DataError, match="'blue'"):
        adversarial(prompts, ["blue"], "p.jsonl")
    with pytest.raises(DataError, match="found 1 prompts and none of kind safety"):
        adversarial([prompt(1, kind="helpful")], [], "p.jsonl")


def test_a_preprompt_is_of_the_prompt_s_risk_or_of_none() -> None:
    prompts = [prompt(i, ("arson", "theft", "fraud", "")[i % 4]) for i in range(400)]
    chosen = choose(prompts, BY_RISK, "category", 0, "q.jsonl")
    assert {c.text for c in chosen[0::4]} == {"no fires."}
    assert {c.text for c in chosen[1::4]} == {"no theft."}
    other = Counter(c.text for c in chosen[2::4] + chosen[3::4])
    assert other.keys() == {"be good.", "be wise."}
    assert 70 < other["be good."] < 130, "evenly"
    assert choose(prompts[4:], BY_RISK, "category", 0, "q.jsonl") == chosen[4:], "by the prompt alone"
    assert choose(prompts, BY_RISK, "category", 1, "q.jsonl") != chosen
    assert {c.category for c in choose(prompts, BY_RISK, "generic", 0, "q.jsonl")} == {""}


def test_what_cannot_be_chosen_is_named() -> None:
    with pytest.raises(DataError, match=r"q\.jsonl: found no preprompt for prompt p1 \(no category\)"):
        choose([prompt(0, "arson"), prompt(1)], BY_RISK[2:], "category", 0, "q.jsonl")
    with pytest.raises(DataError, match=r"categories arson, theft and prompts \(meta\.category\) of aarson.*'arson'"):
        choose([prompt(0, "aarson")], BY_RISK, "category", 0, "q.jsonl")
    with pytest.raises(DataError, match="of none, expected some of the same; by: generic asks for none"):
        choose([prompt(0)], BY_RISK, "category", 0, "q.jsonl")
    with pytest.raises(DataError, match="found no preprompt for prompt p0"):
        choose([prompt(0)], [], "generic", 0, "q.jsonl")


def test_where_a_preprompt_stands() -> None:
    assert prefixed(said("a"), "P", "system") == said("a", system="P")
    assert prefixed(said("a", "b", "c", system="S"), "P", "system") == said("a", "b", "c", system="P\n\nS")
    assert prefixed(said("a", "b", "c"), "P", "plain") == said("a", "b", "P\n\nc")
    assert prefixed(said("a", system="S"), "P", "plain") == said("P\n\na", system="S")


def test_the_gate_keeps_what_scores_above_and_nothing_else() -> None:
    assert kept(pair(0.0, 0.1), True, "leave_out") == "distilled"
    assert kept(pair(0.1, 0.1), True, "leave_out") is None, "equal is not above"
    assert kept(pair(0.2, 0.1), True, "leave_out") is None
    assert kept(pair(0.2, 0.1), True, "original") == "original"
    assert kept(pair(0.2, 0.1), False, "leave_out") == "distilled"
    for bad in (pair(0.0, 9.0, finish="length"), pair(0.0, 9.0, text=" "), pair(0.0, 9.0, text="[INST]")):
        assert kept(bad, False, "leave_out") is kept(bad, True, "leave_out") is None
        assert kept(bad, True, "original") == "original"


def test_a_dialogue_is_without_the_preprompt_and_says_where_it_is_from() -> None:
    one = pair(-1.0, 2.0, category="arson")
    row = as_dialog(one, "distilled", {"policy": "sft"})
    assert explain("dialogue", row) is None
    assert row["messages"] == [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "no"}]
    assert row["meta"] == {
        "prompt_id": "p0", "kept": "distilled", "category": "arson", "preprompt": "be good.", "score": 2.0,
        "score_original": -1.0, "policy": "sft",
    }  # fmt: skip
    for which in ("distilled", "original", None):
        assert explain("distilled", as_row(one, which)) is None  # type: ignore[arg-type]
    assert explain("distilled", {**as_row(one, None), "kept": "both"}) is not None


def test_gains_by_hand() -> None:
    pairs = [pair(0, 1), pair(2, 1), pair(-1, 2, category="arson"), pair(0, 5, finish="length", category="arson")]
    chosen = [kept(one, True, "leave_out") for one in pairs]
    found = gains(pairs, chosen)
    assert list(found["categories"]) == ["arson", "no category"]
    everything = found["all"]
    assert everything["prompts"] == 4
    assert everything["original"]["value"] == 0.25
    assert everything["distilled"]["value"] == 2.25
    # gains 1, -1, 3, 5: mean 2, squared deviations 1 + 9 + 1 + 9 = 20, se = sqrt(20 / 3 / 4)
    assert everything["gain"] == {"value": 2.0, "se": pytest.approx((20 / 12) ** 0.5, abs=1e-12), "n": 4}
    assert everything["better"]["accuracy"] == 0.75
    assert everything["trained"]["value"] == 1.5
    counts = {key: everything[key] for key in ("distilled_rows", "original_rows", "left_out", "unusable")}
    assert counts == {"distilled_rows": 2, "original_rows": 0, "left_out": 2, "unusable": 1}
    assert found["categories"]["arson"]["gain"] == {"value": 4.0, "se": 1.0, "n": 2}


def test_preprompts_are_read_and_their_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    write_jsonl(path, [to_json(one) for one in BY_RISK])
    assert list(read_preprompts(path)) == BY_RISK
    assert json.loads(path.read_text().splitlines()[0]) == {"text": "be good."}
    for row, said_of in (
        ({"txt": "x"}, "text: found no such field"),
        ({"text": ""}, "text: found"),
        ({"text": "x", "category": ""}, "category: found"),
    ):
        write_jsonl(path, [{"text": "x"}, row])
        with pytest.raises(DataError, match=rf"q\.jsonl:2: {said_of}"):
            list(read_preprompts(path))
    write_jsonl(path, [{"text": "[INST] x"}])
    with pytest.raises(TemplateError, match=r"q\.jsonl:1: text"):
        list(read_preprompts(path))


def test_the_shipped_preprompts_are_good() -> None:
    path = Path(__file__).parents[2] / "recipes" / "distill" / "preprompts.jsonl"
    found = list(read_preprompts(path))
    assert any(not one.category for one in found), "one for any prompt"
    assert len({one.category for one in found}) > 2
    assert Message("user", found[0].text).content
