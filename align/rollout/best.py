"""The best answer of each prompt among all that were sampled, and where it came from (paper section 3.2.3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from align.data.template import sayable

Row: TypeAlias = dict[str, Any]  # of data_schemas/rollout.json


def usable(row: Mapping[str, Any]) -> bool:
    """Whether an answer may be learnt from: it ended, and the chat format can hold it."""
    return row["finish"] == "stop" and sayable(row["answer"])


def ranked(rows: Iterable[Row]) -> list[Row]:
    """The rows in their order, each with its ``rank`` among its prompt's by score: 1 is best, ties by order."""
    rows = list(rows)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row["prompt_id"]].append(place)
    ranks = [0] * len(rows)
    for places in groups.values():
        places.sort(key=lambda place: -rows[place]["scores"]["combined"])
        for rank, place in enumerate(places, 1):
            ranks[place] = rank
    return [row | {"rank": rank} for row, rank in zip(rows, ranks, strict=True)]


def choose(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The best answer of each prompt that may be learnt from; how many prompts have none."""
    best: dict[str, Row] = {}
    for row in rows:
        held = best.get(row["prompt_id"])
        if usable(row) and (held is None or row["scores"]["combined"] > held["scores"]["combined"]):
            best[row["prompt_id"]] = row
    return list(best.values()), len({row["prompt_id"] for row in rows}) - len(best)


def pooled(rows: Iterable[Row]) -> dict[str, int]:
    """How many answers each prompt has to choose from."""
    return Counter(row["prompt_id"] for row in rows)


def as_dialog(row: Row, pool: int) -> dict[str, Any]:
    """A chosen rollout as a dialogue to learn from.

    Args:
        row: ranked.
        pool: answers that its prompt had to choose from.
    """
    answer = {"role": "assistant", "content": row["answer"]}
    kept = ("prompt_id", "policy", "policy_sha256", "sample", "temperature", "scores", "rank")
    meta = {"score": row["scores"]["combined"], **{key: row[key] for key in kept}, "of": pool}
    return {"messages": [*row["prompt"], answer], "source": row.get("source", ""), "meta": meta}
