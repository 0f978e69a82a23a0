"""The quick path of reading rows lets nothing through that the schemas would refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from align.data.explain import validator
from align.data.plain import PLAIN
from tests.data.test_schema import ANSWER, PAIR, ROLLOUT, USER

VALID: dict[str, dict[str, Any]] = {
    "dialogue": {"messages": [USER, ANSWER]},
    "preference": PAIR,
    "prompt": {"id": "a", "prompt": [USER]},
    "rollout": {**ROLLOUT, "scores": {"combined": 1.0}, "temperature": 1.0},
}
COLUMNS = ["kind", "rating", "source", "meta", "chosen_safe", "rejected_safe", "id", "extra"]
ROLLOUT_COLUMNS = [
    "answer",
    "policy",
    "policy_sha256",
    "sample",
    "temperature",
    "tokens",
    "finish",
    "scores",
    "rank",
    "logprob",
    "prompt_id",
]
ODD = [None, True, False, 0, 1, 1.0, "", "a", "better", "helpful", "safety", [], {}, {"a": 1}]
ODD_ROLLOUT = [
    *ODD,
    -1,
    -1.0,
    "stop",
    "a" * 64,
    "A" * 64,
    [1],
    [-1],
    ["a"],
    [True],
    {"a": 0.5},
    {"a": None},
    {"a": True},
]
ODD_MESSAGES: list[Any] = [
    "hi", None, [], [None], ["a"], [{}], [{"role": "user"}], [{"content": "a"}], [{**USER, "name": "x"}], {"role": 1},
    *([{"role": role, "content": "a"}] for role in ("system", "tool", 3, None, ["user"])),
    *([USER, {"role": "user", "content": content}] for content in ("", None, 3, ["a"])),
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(VALID))
def test_rows_told_by_hand_are_valid(name: str) -> None:
    # the quick path may only let through what the schema would; the rest it must leave to the schema
    changes = [(column, value) for column in COLUMNS for value in ODD]
    changes += [(column, value) for column in ("messages", "prompt", "chosen", "rejected") for value in ODD_MESSAGES]
    rows = [{**VALID[name], k1: v1, k2: v2} for k1, v1 in changes for k2, v2 in changes]
    if name == "rollout":  # every column of its own, one at a time
        rows = [{**VALID[name], column: value} for column in (*COLUMNS, *ROLLOUT_COLUMNS) for value in ODD_ROLLOUT]
        rows += [{**VALID[name], column: value} for column, value in changes]
    rows += [{k: v for k, v in VALID[name].items() if k != gone} for gone in VALID[name]]
    quick = {json.dumps(row, sort_keys=True): row for row in rows if PLAIN[name](row)}
    assert len(quick) > 5
    for row in quick.values():
        assert validator(name).is_valid(row), row


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("dialogue", {"messages": [USER, ANSWER], "source": "x"}),
        ("preference", {**PAIR, "rating": "better", "kind": "safety", "chosen_safe": True, "rejected_safe": None, "meta": {}}),  # noqa: E501
        ("prompt", {"id": "a", "prompt": [USER], "kind": "helpful", "meta": {"k": 1}}),
        ("rollout", {**VALID["rollout"], "rank": 1, "policy_sha256": "0" * 64, "source": "x", "kind": "safety", "meta": {}}),  # noqa: E501
    ],
)  # fmt: skip
def test_ordinary_rows_take_the_quick_path(name: str, row: dict[str, Any]) -> None:
    assert PLAIN[name](row)
