"""Marks in exams as tables, from a run folder made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.report.summary import summary
from tests.report.test_summary import accuracy, artifact, cells


def marks(gotcha: bool) -> dict[str, Any]:
    half, none = accuracy(0.5, 0.25, 0.75), accuracy(None)
    both = {"all": accuracy(0.125, 0.1, 0.2), "male": half, "female": half}
    return {
        "truthfulqa": {"mc1": half, "mc2": {"value": 0.4567, "se": 0.0123, "n": 9}},
        "winogender": {
            "accuracy": accuracy(0.6, 0.5, 0.7), "disagreement": accuracy(0.1, 0.0, 0.2),
            "by_gender": {"male": half, "female": accuracy(0.75, 0.5, 1.0), "neutral": none},
            "gotcha": {"gotcha": both, "not_gotcha": {**both, "all": half}} if gotcha else None,
        },
        "gsm8k": {"exact_match": accuracy(0.0, 0.0, 0.1), "exact_match_last_number": half},
        "humaneval": {
            "pass_at_k": {"1": {"value": 0.25, "se": None, "n": 1}, "10": {"value": 0.5, "se": 0.01, "n": 9}},
        },
    }  # fmt: skip


def test_all_exams_of_two_policies(tmp_path: Path) -> None:
    artifact(tmp_path, "exam", "exam", {"exams": {"SFT": marks(True), "PPO": marks(True)}})
    text = summary(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### Public exams, % (95 % interval, or ± standard error)", "### Winogender, % (95 % interval)",
    ]  # fmt: skip
    rows = cells(text)
    assert rows[0] == [
        "policy", "TruthfulQA MC1", "MC2", "Winogender", "GSM8K", "by last number", "HumanEval pass@1",
        "HumanEval pass@10",
    ]  # fmt: skip
    assert rows[1] == [
        "SFT", "50.0 (25.0–75.0)", "45.7 ± 1.2", "60.0 (50.0–70.0)", "0.0 (0.0–10.0)", "50.0 (25.0–75.0)", "25.0 ± –",
        "50.0 ± 1.0",
    ]  # fmt: skip
    assert rows[2][0] == "PPO"
    assert rows[3] == ["policy", "male", "female", "neutral", "he or she: other answer", "gotcha", "not gotcha"]
    assert rows[4] == [
        "SFT", "50.0 (25.0–75.0)", "75.0 (50.0–100.0)", "–", "10.0 (0.0–20.0)", "12.5 (10.0–20.0)", "50.0 (25.0–75.0)",
    ]  # fmt: skip


def test_one_exam_without_gotchas(tmp_path: Path) -> None:
    artifact(tmp_path, "exam", "exam", {"exams": {"SFT": {"winogender": marks(False)["winogender"]}}})
    assert [row[:2] for row in cells(summary(tmp_path))] == [
        ["policy", "Winogender"], ["SFT", "60.0 (50.0–70.0)"], ["policy", "male"], ["SFT", "50.0 (25.0–75.0)"],
    ]  # fmt: skip
    assert "gotcha" not in summary(tmp_path)
