"""Means by a value, worked by hand."""

from __future__ import annotations

import math

import pytest

from align.errors import DataError
from align.measures.by import check_key, figures_by, means_by
from align.records import Message, Prompt


def prompt(source: str, **meta: object) -> Prompt:
    return Prompt(id=source, messages=(Message("user", "?"),), source=source, meta=meta)


PROMPTS = [prompt("a", d=10), prompt("a", d=-2), prompt("a", d=10), prompt("b", d=10), prompt("a", d=10)]


def test_means_by_hand() -> None:
    found = means_by(PROMPTS, [1.0, 0.0, 0.0, 0.5, 0.5], "d")
    assert list(found["a"]) == ["-2", "10"], "numbers in their order, not as text"
    # 1, 0, 0.5: the standard deviation is 1/2, over the root of 3
    assert found["a"]["10"] == {"mean": 0.5, "se": pytest.approx(0.5 / 3**0.5), "n": 3}
    assert found["a"]["-2"]["n"] == 1
    assert found["b"] == {"10": {"mean": 0.5, "se": pytest.approx(math.nan, nan_ok=True), "n": 1}}


def test_a_figure_for_each_source_and_a_line_for_each_policy() -> None:
    measured = {
        "before": means_by(PROMPTS, [0.0] * 5, "d"), "after": means_by(PROMPTS, [1.0, 0.0, 0.0, 0.5, 0.5], "d"),
    }  # fmt: skip
    first, second = figures_by(measured, "d", "helpful")
    assert (first["x"], first["y"], second["title"]) == ("d", "helpful", "Helpful by d: b")
    assert [series["name"] for series in first["series"]] == ["before", "after"]
    assert first["series"][1]["points"] == [[-2.0, 0.0], [10.0, 0.5]]
    # Wilson's bounds solve (p - mean)² = z² p (1 - p) / n: 0 and z² / (1 + z²) of none of one, those of half of three
    half = 1.96 / 2 / (3 + 1.96**2) ** 0.5
    assert first["series"][1]["low"] == pytest.approx([0.0, 0.5 - half])
    assert first["series"][1]["high"] == pytest.approx([1.96**2 / (1 + 1.96**2), 0.5 + half])


def test_values_that_are_words_stay_words() -> None:
    rows = [prompt("a", d="late"), prompt("a", d="early")]
    (figure,) = figures_by({"one": means_by(rows, [1.0, 0.0], "d")}, "d", "helpful")
    assert figure["series"][0]["points"] == [["early", 0.0], ["late", 1.0]]


def test_a_prompt_without_the_value_is_named() -> None:
    check_key(PROMPTS, "d", "p.jsonl")
    with pytest.raises(DataError, match=r"p\.jsonl: prompt c: meta\.d: found None, expected a number or a text"):
        check_key([*PROMPTS, prompt("c")], "d", "p.jsonl")
