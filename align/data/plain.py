"""Rows that are plainly right, told by hand, many times faster than by their schema.

Nearly all rows are; every other one goes to the schema, which alone decides and explains. A test holds that plain
implies valid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from align.records import RATINGS

ROLES = ("system", "user", "assistant")
_SHA256 = re.compile("[0-9a-f]{64}")


def _plain_messages(value: Any) -> bool:
    return (
        type(value) is list
        and bool(value)
        and all(
            type(m) is dict
            and len(m) == 2
            and m.get("role") in ROLES
            and type(m.get("content")) is str
            and m["content"]
            for m in value
        )
    )


def _plain_rest(row: Any, required: tuple[str, ...]) -> bool:
    """Whether the other columns are plainly right."""
    for key, value in row.items():
        if key in required:
            continue
        if key == "kind":
            right = value in ("helpful", "safety")
        elif key == "rating":
            right = value in RATINGS
        elif key == "source":
            right = type(value) is str
        else:
            right = key == "meta" and type(value) is dict
        if not right:
            return False
    return True


def _typed(row: Mapping[str, Any], columns: Mapping[str, tuple[type, Callable[[Any], bool]]]) -> bool:
    """Whether those columns that are there have their type and pass their check."""
    return all(type(row[key]) is kind and good(row[key]) for key, (kind, good) in columns.items() if key in row)


_ROLLOUT: Mapping[str, tuple[type, Callable[[Any], bool]]] = {
    "prompt_id": (str, bool),
    "answer": (str, lambda text: True),
    "policy": (str, bool),
    "policy_sha256": (str, lambda text: bool(_SHA256.fullmatch(text))),
    "sample": (int, lambda number: number >= 0),
    "temperature": (float, lambda number: number >= 0),
    "tokens": (list, lambda tokens: True),
    "logprob": (float, lambda number: True),
    "finish": (str, lambda text: text in ("stop", "length")),
    "scores": (dict, lambda scores: True),
    "rank": (int, lambda number: number >= 1),
}

PLAIN: Mapping[str, Callable[[Any], bool]] = {
    "dialogue": lambda row: (
        type(row) is dict
        and _plain_messages(row.get("messages"))
        and _plain_rest(row, ("messages",))
        and not row.keys() & {"kind", "rating"}
    ),
    "preference": lambda row: (
        type(row) is dict
        and all(_plain_messages(row.get(key)) for key in ("prompt", "chosen", "rejected"))
        and _plain_rest(row, ("prompt", "chosen", "rejected", "chosen_safe", "rejected_safe"))
        and type(row.get("chosen_safe")) in (bool, type(None))
        and type(row.get("rejected_safe")) in (bool, type(None))
        and not (row.get("chosen_safe") is False and row.get("rejected_safe") is True)
    ),
    "prompt": lambda row: (
        type(row) is dict
        and type(row.get("id")) is str
        and row["id"] != ""
        and _plain_messages(row.get("prompt"))
        and _plain_rest(row, ("id", "prompt"))
        and "rating" not in row
    ),
    "ranking": lambda row: False,
    "constraint": lambda row: False,
    "preprompt": lambda row: False,
    "rollout": lambda row: (
        type(row) is dict
        and _typed(row, _ROLLOUT)
        and {*_ROLLOUT} - {"policy_sha256", "rank"} <= row.keys()
        and _plain_messages(row.get("prompt"))
        and all(type(token) is int and token >= 0 for token in row["tokens"])
        and all(type(score) is float for score in row["scores"].values())
        and _plain_rest(row, ("prompt", *_ROLLOUT))
        and "rating" not in row
    ),
}
