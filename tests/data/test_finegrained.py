"""FineGrainedRLHF's six labels of four answers: read as presumed, ties told, nothing lost."""

from __future__ import annotations

import re
from collections import Counter
from graphlib import TopologicalSorter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from align.data.convert import Job, convert
from tests.data.test_formats import converted

LABELLED = {
    "question": "q?",
    **{f"prediction {number}": text for number, text in enumerate("abcd", 1)},
    "preference": [0, 1, 2, 1, 0, 2],
    "gold": "g",
    "passages": [["t", "p"]],
    "feedback": {"errors": []},
}


def test_finegrained(tmp_path: Path) -> None:
    """The six labels by hand, in the order (1,2) (1,3) (1,4) (2,3) (2,4) (3,4); ties are told, nothing is lost."""
    made = converted(tmp_path, [LABELLED], format="finegrained", to="rankings")
    (row,) = made.train
    assert [(one["pair"], one["chosen"]) for one in row["comparisons"]] == [
        ([0, 1], None), ([0, 2], 0), ([0, 3], 3), ([1, 2], 1), ([1, 3], None), ([2, 3], 3),
    ]  # fmt: skip
    assert [answer[0]["content"] for answer in row["answers"]] == list("abcd")
    assert row["prompt"] == [{"role": "user", "content": "q?"}]
    assert row["meta"] == {key: LABELLED[key] for key in ("passages", "gold", "feedback")}
    assert "ranks" not in row


@pytest.mark.parametrize("labels", [[0, 1, 2, 1, 0], [0, 1, 2, 1, 0, 3], [0, 1, 2, 1, 0, True], "012120", None])
def test_labels_that_nobody_knows_are_set_aside(tmp_path: Path, labels: Any) -> None:
    made = converted(tmp_path, [LABELLED, {**LABELLED, "preference": labels}], format="finegrained", to="rankings")
    assert len(made.train) == 1
    assert made.counts()["reasons"] == {"unknown labels": 1}


def test_the_real_labels_read_as_presumed(shared_data: Path) -> None:
    """With the presumed order of the six pairs all 500 rows are partial orders, and in two cases of three the better
    answer of a pair is nearer to the gold answer: another order, or 1 and 2 changed about, would not do that.
    """
    job = Job(
        format="finegrained", to="rankings", out="x",
        path=str(shared_data / "preference" / "finegrained_rlhf_dev_feedback.json.gz"),
    )  # fmt: skip
    made = convert(job)
    assert (made.rows, len(made.train), made.aside) == (500, 500, [])
    ties = [one for row in made.train for one in row["comparisons"] if one["chosen"] is None]
    assert len(ties) == 384
    nearer, no_order = [], 0
    for row in made.train:
        near = [_shared_words(answer[0]["content"], row["meta"]["gold"]) for answer in row["answers"]]
        above: dict[int, set[int]] = {i: set() for i in range(4)}
        for one in row["comparisons"]:
            if one["chosen"] is not None:
                rejected = sum(one["pair"]) - one["chosen"]
                above[rejected].add(one["chosen"])
                nearer.append(near[one["chosen"]] > near[rejected])
        list(TopologicalSorter(above).static_order())  # raises CycleError
        said = {(*one["pair"], one["chosen"]) for one in row["comparisons"]}
        no_order += not any(said == _as_ranked(ranks) for ranks in product(range(4), repeat=4))
    assert sum(nearer) / len(nearer) > 0.6
    assert no_order == 22, "ties that do not chain: no ranks could say these rows"


def _as_ranked(ranks: tuple[int, ...]) -> set[tuple[int, int, int | None]]:
    return {
        (i, j, None if ranks[i] == ranks[j] else i if ranks[i] < ranks[j] else j) for i, j in combinations(range(4), 2)
    }


def _shared_words(first: str, second: str) -> float:
    """F1 of their words."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (first, second))
    return 2 * (a & b).total() / (a.total() + b.total())
