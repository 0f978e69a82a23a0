"""Rows of public formats -> ours, with nothing lost on the way; TRL's own functions as the peer."""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.convert import Job, convert
from align.data.formats import UnfitError, common_prompt, hh_messages, rate, trl

USER = {"role": "user", "content": "What color is the sky?"}
BLUE, GREEN = ({"role": "assistant", "content": f"It is {colour}."} for colour in ("blue", "green"))


def converted(tmp_path: Path, rows: list[Any], **job: Any) -> Any:
    path = tmp_path / "in.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return convert(Job(path=str(path), out="out", **job))


def hh(*texts: str) -> str:
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {text}" for i, text in enumerate(texts))


TRL_PREFERENCES = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
    {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
    {"prompt": "What color is the sky?", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},  # as on the hub
]


@pytest.mark.parametrize("row", TRL_PREFERENCES)
def test_trl_preferences(tmp_path: Path, row: dict[str, Any]) -> None:
    made = converted(tmp_path, [row], format="trl", to="preferences")
    assert made.aside == []
    (pair,) = made.train
    standard = isinstance(row["chosen"], str)
    asked, chosen, rejected = (
        ("The sky is", "blue.", "green.") if standard else (USER["content"], "It is blue.", "It is green.")
    )
    assert pair == {
        "prompt": [{"role": "user", "content": asked}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "rating": "negligibly",
        "kind": "helpful",
        "source": "in.jsonl",
    }


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, BLUE]},
        {"prompt": [USER], "completion": [BLUE]},
        {"prompt": USER["content"], "completion": " It is blue."},
        {"prompt": [USER], "completion": [BLUE], "label": True},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"conversations": [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": BLUE["content"]}]},
    ],
)
def test_trl_dialogues(tmp_path: Path, row: dict[str, Any]) -> None:
    made = converted(tmp_path, [row], format="trl", to="dialogues", source="mine")
    assert made.train == [{"messages": [USER, BLUE], "source": "mine"}]
    prompts = converted(tmp_path, [row], format="trl", to="prompts", kind="safety")
    assert [(p["prompt"], p["kind"]) for p in prompts.train] == [([USER], "safety")]


@pytest.mark.parametrize("row", [{"prompt": [USER]}, {"prompt": USER["content"]}])
def test_trl_prompts(tmp_path: Path, row: dict[str, Any]) -> None:
    assert [p["prompt"] for p in converted(tmp_path, [row], format="trl", to="prompts").train] == [[USER]]
    made = converted(tmp_path, [row], format="trl", to="dialogues")
    assert [bad["reason"] for bad in made.aside] == ["no answer"]


def test_sharegpt_as_trl_reads_it() -> None:
    from trl import maybe_convert_to_chatml

    names = (("system", "s"), ("human", "a"), ("gpt", "b"))
    row = {"conversations": [{"from": role, "value": text} for role, text in names]}
    theirs = maybe_convert_to_chatml({"conversations": [dict(turn) for turn in row["conversations"]]})["messages"]
    (ours,) = trl(row)
    (again,) = trl({"messages": theirs})
    assert ours == again
    assert [(m.role, m.content) for m in ours.prompt] == [("system", "s"), ("user", "a")]


WORDS = st.lists(st.sampled_from(["the", "sky", "is", "blue", "black", "skies"]), min_size=1, max_size=7).map(" ".join)
TURN = st.sampled_from([{"role": r, "content": c} for r in ("user", "assistant") for c in ("a", "b")])


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.tuples(WORDS, WORDS), st.tuples(*[st.lists(TURN, min_size=1, max_size=5)] * 2)))
def test_implicit_prompt_equals_trls(pair: tuple[Any, Any]) -> None:
    from trl import extract_prompt

    chosen, rejected = pair
    if chosen == rejected:
        with pytest.raises(UnfitError, match="same answers"):
            common_prompt(chosen, rejected)
        return
    prompt, *rests = common_prompt(chosen, rejected)
    assert [prompt + rest for rest in rests] == [chosen, rejected]
    text = isinstance(chosen, str)
    if text:  # whole words in common, found another way
        words = zip(chosen.split(" "), rejected.split(" "), strict=False)
        assert prompt == " ".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], words))
    shorter = min(len(chosen), len(rejected))
    if chosen[:shorter] == rejected[:shorter] or chosen[0] != rejected[0]:
        return  # TRL's loop ends without a difference, or looks at item -1: its answer means nothing there
    theirs = extract_prompt({"chosen": chosen, "rejected": rejected})["prompt"]
    within_a_word = text and chosen[len(theirs)] != " "
    assert theirs.startswith(prompt) if within_a_word else theirs == prompt


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),  # TRL's own example
        ("The sky is blue.", "The sky is black.", "The sky is"),  # TRL: "The sky is bl"
        ("The sky is", "The sky is black.", "The sky is"),
        ("The sky is blue", "The sky is blueish", "The sky is"),
        ("Blue", "Black", ""),
        ("a b", "c d", ""),
    ],
)
def test_implicit_prompt_by_hand(chosen: str, rejected: str, prompt: str) -> None:
    assert common_prompt(chosen, rejected) == (prompt, chosen[len(prompt) :], rejected[len(prompt) :])


@pytest.mark.parametrize(
    ("row", "to", "reason"),
    [
        ({"text": "The sky is blue."}, "dialogues", "plain text"),
        ({"prompt": [USER], "completion": [BLUE], "label": False}, "dialogues", "label false"),
        ({"a": 1}, "dialogues", "unknown columns"),
        ({"messages": [USER]}, "dialogues", "odd end"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, BLUE]}, "dialogues", "roles"),
        ({"messages": [USER, USER, BLUE]}, "dialogues", "roles"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "dialogues", "empty message"),
        ({"messages": [USER, {"role": "assistant", "content": "[/INST]"}]}, "dialogues", "tag"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "dialogues", "wrong type"),
        ({"messages": "hi"}, "dialogues", "odd end"),
        ({"messages": []}, "dialogues", "wrong type"),
        ({"messages": [3]}, "dialogues", "wrong type"),
        ({"messages": [USER, BLUE]}, "preferences", "no pair"),
        ({"prompt": [USER], "chosen": [BLUE], "rejected": [BLUE]}, "preferences", "same answers"),
        ({"chosen": [USER, BLUE], "rejected": [USER, BLUE]}, "preferences", "same answers"),
        ({"chosen": [USER, BLUE], "rejected": "x"}, "preferences", "wrong type"),
        ({"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN, GREEN]}, "preferences", "roles"),
        ({"chosen": hh("a", "b"), "rejected": hh("a", "c")}, "preferences", "transcript"),
        ({"prompt": None, "chosen": 1, "rejected": 2}, "preferences", "wrong type"),
        ("{x", "preferences", "not JSON"),
        ([1], "preferences", "wrong type"),
    ],
)
def test_unfit_rows_are_set_aside_with_their_reason(tmp_path: Path, row: Any, to: str, reason: str) -> None:
    good = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}
    made = converted(tmp_path, [good, row], format="trl", to=to)
    assert len(made.train) == 1
    (bad,) = made.aside
    assert (bad["reason"], bad["line"], bad["row"]) == (reason, 2, row)
    assert made.counts() == {"read": 2, "train": 1, "test": 0, "set_aside": 1, "reasons": {reason: 1}}


def test_hh(tmp_path: Path) -> None:
    row = {"chosen": hh("a", "b", "c\n\nd", " blue "), "rejected": hh("a", "b", "c\n\nd", "green")}
    prompt = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c\n\nd"},
    ]
    (pair,) = converted(tmp_path, [row], format="hh", to="preferences", kind="safety").train
    assert (pair["prompt"], pair["kind"]) == (prompt, "safety")
    assert pair["chosen"] == [{"role": "assistant", "content": "blue"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "green"}]
    (dialogue,) = converted(tmp_path, [row], format="hh", to="dialogues").train
    assert dialogue["messages"] == [*prompt, *pair["chosen"]]
    (asked,) = converted(tmp_path, [row], format="hh", to="prompts").train
    assert asked["prompt"] == prompt


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (hh("a", "b"), hh("a", "b "), "same answers"),
        (hh("a", "b"), hh("x", "c"), "prompts differ"),
        (hh("a", "b"), hh("a", "c", "d", "e"), "prompts differ"),
        (hh("a", "b", "c"), hh("a", "c"), "odd end"),
        ("Hello" + hh("a", "b"), hh("a", "c"), "odd start"),
        ("\n\nAssistant: x" + hh("a", "b"), hh("a", "c"), "odd start"),
        ("no turns", hh("a", "c"), "odd start"),
        ("", hh("a", "c"), "odd start"),
        (hh("a") + hh("b", "c"), hh("a") + hh("b", "d"), "roles"),
        (hh("a", ""), hh("a", "d"), "empty message"),
        (hh("a", "b"), hh("a", "[INST] d"), "tag"),
        (3, hh("a", "d"), "wrong type"),
    ],
)
def test_odd_hh_is_set_aside(tmp_path: Path, chosen: Any, rejected: str, reason: str) -> None:
    made = converted(tmp_path, [{"chosen": chosen, "rejected": rejected}], format="hh", to="preferences")
    assert [bad["reason"] for bad in made.aside] == [reason]
    assert made.train == made.test == []


def test_the_losing_answers_faults_do_not_cost_a_dialogue(tmp_path: Path) -> None:
    row = {"chosen": hh("a", "b"), "rejected": hh("x", "")}
    assert len(converted(tmp_path, [row], format="hh", to="dialogues").train) == 1
    assert len(converted(tmp_path, [row], format="hh", to="prompts").train) == 1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text("ab \n:HumanAssistant", min_size=1, max_size=12).map(str.strip).filter(bool), min_size=2, max_size=8
    )
)
def test_hh_text_comes_back(texts: list[str]) -> None:
    texts = texts[: len(texts) // 2 * 2]
    spoken = hh_messages(hh(*texts))
    if not any("\n\nHuman:" in hh(text)[2:] or "\n\nAssistant:" in text for text in texts):
        assert [m.content for m in spoken] == texts
        assert [m.role for m in spoken] == ["user", "assistant"] * (len(texts) // 2)


def test_rating_from_score_gap() -> None:
    thresholds: dict[Any, float] = {"slightly": 1, "significantly": 3, "better": 2}
    gaps = {
        0.5: "negligibly",
        1.0: "slightly",
        1.9: "slightly",
        2.0: "better",
        3.0: "significantly",
        9.0: "significantly",
    }
    assert {gap: rate(gap, thresholds) for gap in gaps} == gaps
    assert rate(None, thresholds) == "negligibly"
    assert rate(9.0, {}) == "negligibly"


def test_ultrafeedback(tmp_path: Path) -> None:
    ratings = {"significantly": 3, "better": 2, "slightly": 1}
    pair = {"prompt": "q", "chosen": "b", "rejected": "g"}
    messages = {
        "prompt": "q",
        "chosen": [{"role": "user", "content": "q"}, BLUE],
        "rejected": [{"role": "user", "content": "q"}, GREEN],
    }
    rows = [
        {**pair, "metadata": {"score_chosen": 9.0, "score_rejected": 7.0}},
        {**messages, "score_chosen": 8.5, "score_rejected": 8.0},
        {**pair, "metadata": {"score_chosen": 7.0, "score_rejected": 7.0}},
        {**pair, "metadata": {"score_chosen": 6.0, "score_rejected": 7.0}},
        {**pair, "metadata": {"score_chosen": None, "score_rejected": 7.0}},
        pair,
    ]
    made = converted(tmp_path, rows, format="ultrafeedback", to="preferences", ratings=ratings)
    assert [row["rating"] for row in made.train] == ["better", "negligibly"]
    assert made.train[1]["chosen"] == [BLUE], "the prompt that the hub's rows repeat in the answers is taken off"
    assert made.counts()["reasons"] == {"no preference": 2, "no scores": 2}
    dialogues = converted(tmp_path, rows, format="ultrafeedback", to="dialogues")
    assert len(dialogues.train) == 6, "a demonstration needs no scores"


def test_dolly_and_self_instruct(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Name it.", "context": "", "response": " Tope "},
        {"instruction": "Sum up.", "context": "Long text.", "response": "Text."},
        {"instruction": "Sum up.", "response": "cut of", "maybe_truncated": True},
        {"instruction": "Sum up."},
    ]
    made = converted(tmp_path, rows, format="dolly", to="dialogues")
    assert [[m["content"] for m in row["messages"]] for row in made.train] == [
        ["Name it.", "Tope"],
        ["Sum up.\n\nLong text.", "Text."],
    ]
    assert made.counts()["reasons"] == {"truncated": 1, "wrong type": 1}
    rows = [
        {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "?"}]},
        {"instruction": "Add.", "instances": []},
        {"instruction": "Add.", "instances": ["x"]},
    ]
    made = converted(tmp_path, rows, format="self_instruct", to="dialogues")
    assert [[m["content"] for m in row["messages"]] for row in made.train] == [["Add.\n\n1 1", "2"], ["Add.", "?"]]
    assert made.counts()["reasons"] == {"no instances": 1, "wrong type": 1}
