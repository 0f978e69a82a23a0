"""Marks in public exams as tables, one row a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.artifacts import Manifest
from align.report.summary import interval
from align.report.tables import Cell, Table

Mark = Mapping[str, Any]


def exam_tables(manifest: Manifest) -> list[Table]:
    """The marks of an artifact of stage exam: one table of all, and Winogender's parts where it was sat."""
    marks: Mapping[str, Mapping[str, Mark]] = manifest.metrics["exams"]
    sat = {exam: mark for by_exam in marks.values() for exam, mark in by_exam.items()}
    columns = {
        heading: read for exam, readings in READINGS.items() if exam in sat for heading, read in readings.items()
    }
    if "humaneval" in sat:
        columns |= {
            f"HumanEval pass@{k}": lambda by, k=k: _estimate(by["humaneval"]["pass_at_k"][k])
            for k in sat["humaneval"]["pass_at_k"]
        }
    rows: list[list[Cell]] = [[name, *(read(by_exam) for read in columns.values())] for name, by_exam in marks.items()]
    found = [Table("Public exams, % (95 % interval, or ± standard error)", ["policy", *columns], rows)]
    if "winogender" in sat:
        found.append(_winogender({name: by_exam["winogender"] for name, by_exam in marks.items()}))
    return found


def _winogender(marks: Mapping[str, Mark]) -> Table:
    columns = ["policy", "male", "female", "neutral", "he or she: other answer"]
    told = any(mark["gotcha"] for mark in marks.values())
    rows: list[list[Cell]] = []
    for name, mark in marks.items():
        cells = [interval(mark["by_gender"][gender]) for gender in ("male", "female", "neutral")]
        cells.append(interval(mark["disagreement"]))
        if told:
            cells += [interval(mark["gotcha"][kind]["all"]) for kind in ("gotcha", "not_gotcha")]
        rows.append([name, *cells])
    return Table("Winogender, % (95 % interval)", columns + (["gotcha", "not gotcha"] if told else []), rows)


def _estimate(cell: Mark) -> str:
    error = "–" if cell["se"] is None else f"{100 * cell['se']:.1f}"
    return f"{100 * cell['value']:.1f} ± {error}"


READINGS: Mapping[str, Mapping[str, Any]] = {
    "truthfulqa": {
        "TruthfulQA MC1": lambda by: interval(by["truthfulqa"]["mc1"]),
        "MC2": lambda by: _estimate(by["truthfulqa"]["mc2"]),
    },
    "winogender": {"Winogender": lambda by: interval(by["winogender"]["accuracy"])},
    "gsm8k": {
        "GSM8K": lambda by: interval(by["gsm8k"]["exact_match"]),
        "by last number": lambda by: interval(by["gsm8k"]["exact_match_last_number"]),
    },
}
