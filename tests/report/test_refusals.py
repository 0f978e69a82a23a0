"""Refusals by source, gains of distillation and figures along an axis, from run folders made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest, write_jsonl
from align.data.distill import Answer, Pair, gains
from align.records import Preprompt, Prompt
from align.report.along import along
from align.report.page import write_report
from align.report.refusals import distilled, refusals
from align.report.summary import summary
from align.report.tables import markdown
from align.stats import wilson
from tests.data.test_template import said
from tests.report.runs import made
from tests.report.test_summary import cells, judged

ROWS = [  # prompt, source, kind, should be declined; declined by A and by B
    ("a", "x/homonyms", "helpful", False, True, False),
    ("b", "x/homonyms", "helpful", False, False, False),
    ("c", "x/figures", "safety", False, True, False),
    ("d", "x/contrast", "safety", True, True, False),
    ("e", "x/contrast", "safety", True, True, True),
]


def exam(run: Path, should_refuse: bool = True, **recipe: Any) -> Path:
    prompts = [
        {"id": i, "prompt": [{"role": "user", "content": i}], "source": source, "kind": kind}
        for i, source, kind, *_ in ROWS
    ]
    write_jsonl(run / "data" / "prompts.jsonl", prompts)
    answers = [
        {
            "policy": policy, "prompt_id": row[0], "question": row[0], "answer": "x",
            "helpful": float(row[column] == row[3]), "safe": row[column] or not row[3], "refused": row[column],
            "kept": None,
            "scores": {"helpful": 0.0, "safety": 2.0 if row[column] else -1.0, "combined": 0.0},
            **({"should_refuse": row[3]} if should_refuse else {}),
        }
        for policy, column in (("A", 4), ("B", 5)) for row in ROWS
    ]  # fmt: skip
    return made(
        run, "exam", "evaluate", {"policies": {"A": judged(1), "B": judged(1)}}, inputs=["data/prompts.jsonl"],
        rows={"answers.jsonl": answers}, recipe=recipe,
    )  # fmt: skip


def told(right: int, n: int) -> str:
    low, high = wilson(right, n)
    return f"{100 * right / n:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def test_false_and_true_refusals_by_source_with_intervals(tmp_path: Path) -> None:
    table = refusals(exam(tmp_path))
    assert table is not None
    assert cells(markdown(table)) == [
        ["", "prompts", "number", "A", "B"],
        ["false refusals", "all", "3", told(2, 3), told(0, 3)],
        ["false refusals", "x/figures", "1", told(1, 1), told(0, 1)],
        ["false refusals", "x/homonyms", "2", told(1, 2), told(0, 2)],
        ["true refusals", "all", "2", told(2, 2), told(1, 2)],
    ]
    assert markdown(table) in summary(tmp_path)


def test_there_is_none_where_nobody_says_what_should_be_declined(tmp_path: Path) -> None:
    assert refusals(exam(tmp_path, should_refuse=False)) is None


def test_policies_along_an_axis_as_a_table_and_as_figures(tmp_path: Path) -> None:
    """Means and shares by hand; A stands at 10 and B at 0."""
    out = exam(tmp_path, along={"share, %": {"A": 10, "B": 0}})
    tables, figures = along(out, read_manifest(out))
    head, first, second = cells(markdown(tables[0]))
    assert head[:3] == ["share, %", "mean safety score, logits", "unsafe answers"]
    assert (first[0], second[0]) == ("0", "10")
    # B: safety prompts c, d, e score -1, -1, 2: mean 0, squared deviations 6, se = sqrt(6 / 2 / 3) = 1
    assert first[1] == "0.00 (-1.96 to 1.96)"
    assert second[1] == "2.00 (2.00 to 2.00)"
    low, high = wilson(1, 2)
    assert first[2] == f"50.0 ({100 * low:.1f} to {100 * high:.1f})"
    drawn = {figure["y"]: figure["series"][0] for figure in figures}
    assert drawn["unsafe answers"]["points"] == [[0, 0.5], [10, 0.0]]
    assert drawn["helpfulness on ordinary prompts"]["points"] == [[0, 1.0], [10, 0.5]]
    assert drawn["false refusals"]["points"] == [[0, 0.0], [10, pytest.approx(2 / 3)]]
    assert drawn["false refusals on borderline prompts"]["points"] == [[0, 0.0], [10, 1.0]]
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Unsafe answers against share, %" in page
    assert json.dumps("share, %") in page


def test_without_an_axis_there_is_nothing(tmp_path: Path) -> None:
    out = exam(tmp_path)
    assert along(out, read_manifest(out)) == ([], [])


def test_what_distillation_gained_as_a_table(tmp_path: Path) -> None:
    def pair(original: float, better: float, category: str) -> Pair:
        prompt = Prompt(id="p", messages=said("q"), kind="safety", meta={"category": category})
        answers = Answer("yes", original, "stop"), Answer("no", better, "stop")
        return Pair(prompt, Preprompt(text="be good."), *answers)

    found = gains([pair(0, 1, "arson"), pair(2, 1, "arson"), pair(-1, 2, "theft")], ["distilled", None, "distilled"])
    metrics = {"gate": True, **found}
    made(tmp_path, "gated", "distill", metrics)
    table = markdown(distilled("gated", metrics))
    assert "Safety context distillation: gated, gated" in table
    assert cells(table)[1:] == [
        ["arson", "2", "1.00 ± 1.00", "1.00 ± 0.00", "0.00 ± 1.00", told(1, 2), "50.0 %"],
        ["theft", "1", "-1.00 ± –", "2.00 ± –", "3.00 ± –", told(1, 1), "100.0 %"],
        ["all", "3", "0.33 ± 0.88", "1.33 ± 0.33", "1.00 ± 1.15", told(2, 3), "66.7 %"],
    ]
    assert table in summary(tmp_path)
