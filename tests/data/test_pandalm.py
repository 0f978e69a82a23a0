"""Pairs that several people compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.data.convert import Job, convert
from align.data.schema import read_preferences
from align.files import write_jsonl
from align.measures.agreement import agreement_report


def row(number: int, *votes: Any, **rest: Any) -> dict[str, Any]:
    return {
        "idx": number, "cmp_key": "a_b", "instruction": " Say it shorter. ", "input": f"number {number}",
        "response1": "one", "response2": "two ", **{f"annotator{i}": vote for i, vote in enumerate(votes, 1)}, **rest,
    }  # fmt: skip


def test_the_response_with_more_votes_is_chosen_and_every_vote_is_kept(tmp_path: Path) -> None:
    rows = [row(0, 1, 1, 2), row(1, 2, 0, 2), row(2, 0, 0, 1), row(3, 0, 0, 0), row(4, 1, 2, 0)]
    rows += [row(5, 1, 1, 3), {"instruction": "a", "response1": "b", "response2": "c"}, row(6, 1, 1, 1, response2=3)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    made = convert(Job(format="pandalm", path=str(tmp_path / "in.jsonl"), to="preferences", out="out", source="p"))
    assert made.counts()["reasons"] == {"no preference": 2, "unknown labels": 2, "wrong type": 1}
    assert made.train[1] == {
        "prompt": [{"role": "user", "content": "Say it shorter.\n\nnumber 1"}],
        "chosen": [{"role": "assistant", "content": "two"}],
        "rejected": [{"role": "assistant", "content": "one"}],
        "votes": ["chosen", "tie", "chosen"],
        "rating": "negligibly", "kind": "helpful", "source": "p",
    }  # fmt: skip
    assert [made.train[i]["votes"] for i in (0, 2)] == [["chosen", "chosen", "rejected"], ["tie", "tie", "chosen"]]
    write_jsonl(tmp_path / "out.jsonl", made.train)
    pairs = list(read_preferences(tmp_path / "out.jsonl"))
    report = agreement_report(pairs, [1.0, -1.0, 1.0])
    assert report is not None
    assert report["people"]["agreement"]["value"] == pytest.approx(1 / 3)
    # with the side that most took: yes, no, yes
    assert report["model"]["majority"]["accuracy"] == pytest.approx(2 / 3)
    assert [one["model"]["n"] for one in report["annotators"]] == [2, 1, 3]
