"""The report as a whole, beside plain counting."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from align.data.explain import explain
from align.errors import DataError, RunError
from align.files import jsonable
from align.measures.reward import by_rating, document, reward_report
from align.records import RATINGS
from align.stats import accuracy_by, wilson
from tests.measures.cases import many, pair


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_every_cell_is_what_a_plain_count_gives() -> None:
    pairs, scores, tokens = many(300)
    cells = reward_report(pairs, scores, tokens)["accuracy"]
    assert len({(c["source"], c["kind"], c["rating"]) for c in cells}) == len(cells) == 4 * 3 * 5
    for cell in cells:
        inside = [
            (s, t)
            for p, s, t in zip(pairs, scores, tokens, strict=True)
            if cell["source"] in (p.source, "all") and cell["kind"] in (p.kind, "all")
            and cell["rating"] in (p.rating, "all")
        ]  # fmt: skip
        right = sum(1.0 if a > b else 0.5 if a == b else 0.0 for (a, b), _ in inside)
        longer = sum(1.0 if a > b else 0.5 if a == b else 0.0 for _, (a, b) in inside)
        assert cell["n"] == cell["length_baseline"]["n"] == len(inside) > 0
        assert cell["accuracy"] == pytest.approx(right / len(inside))
        assert (cell["low"], cell["high"]) == pytest.approx(wilson(right, len(inside)))
        assert cell["length_baseline"]["accuracy"] == pytest.approx(longer / len(inside))
        assert cell["over_all"] == (cell["source"] == cell["kind"] == "all")


def test_the_report_in_short_is_the_accuracy_that_manifests_hold() -> None:
    pairs, scores, tokens = many(80)
    pairs = [p for p in pairs if p.rating != "slightly"]
    gaps = [a - b for a, b in scores[: len(pairs)]]
    report = reward_report(pairs, scores[: len(pairs)], tokens[: len(pairs)])
    assert by_rating(report) == accuracy_by(gaps, [p.rating for p in pairs], RATINGS)


def test_it_fits_its_schema_and_holds_no_number_that_json_has_not() -> None:
    votes = {"votes": ("chosen", "tie", "chosen")}
    cases = [many(120), many(1), ([pair("q", **votes)] * 2, [(1.0, 1.0)] * 2, [(3, 3)] * 2)]
    for pairs, scores, tokens in cases:
        made = document("rm", {"test": reward_report(pairs, scores, tokens)})
        assert finite(made)
        assert explain("reward_report", json.loads(json.dumps(jsonable(made)))) is None
    assert explain("reward_report", {**made, "sets": {"test": {}}}) is not None


def test_an_answer_in_several_pairs_is_counted_once() -> None:
    pairs = [pair("q", "a", "b", chosen_safe=True, rejected_safe=False), pair("q", "a", "c", chosen_safe=True)]
    pairs += [pair("p", "a", "b", chosen_safe=True, rejected_safe=False)]
    found = reward_report(pairs, [(1.0, -1.0), (1.0, 0.5), (2.0, 3.0)], [(3, 4), (3, 5), (3, 4)])
    assert found["answers"] == 5
    assert {name: g["n"] for name, g in found["scores"]["groups"].items()} == {
        "chosen": 3, "rejected": 3, "safe": 2, "unsafe": 2, "unlabelled": 1,
    }  # fmt: skip
    assert found["length"]["answers"]["pearson"]["n"] == 5
    assert found["safety"]["unsafe"]["recall"]["n"] == 2


def test_length_is_that_of_the_answer_that_the_score_is_of() -> None:
    """Scores that are ten times the tokens: any mix-up of the two answers breaks the line."""
    pairs, tokens = [pair(str(i), f"a{i}", f"b{i}") for i in range(5)], [(3, 9), (8, 1), (4, 4), (2, 7), (6, 5)]
    found = reward_report(pairs, [(10.0 * a, 10.0 * b) for a, b in tokens], tokens)["length"]
    assert found["answers"]["pearson"]["r"] == pytest.approx(1.0)
    assert found["pairs"]["spearman"]["r"] == pytest.approx(1.0)


def test_a_source_called_all_is_not_counted_twice() -> None:
    cells = reward_report([pair("q", source="all"), pair("p", source="x")], [(1.0, 0.0)] * 2, [(1, 2)] * 2)["accuracy"]
    assert [c["n"] for c in cells if c["over_all"] and c["rating"] == "all"] == [2]
    assert [c["n"] for c in cells if c["source"] == "all" and c["kind"] == "helpful" and c["rating"] == "all"] == [1, 2]


def test_wrong_input() -> None:
    with pytest.raises(DataError, match="found no pairs"):
        reward_report([], [], [])
    with pytest.raises(
        RunError, match=r"2 of 3 pairs are not finite, first those of pair 1 \(mine\): found \(0.0, nan\)"
    ):
        reward_report(
            [pair(str(i), source="mine") for i in range(3)],
            [(0.0, 1.0), (0.0, math.nan), (math.inf, 0.0)],
            [(1, 1)] * 3,
        )
