"""Figures draw what the tables say."""

from __future__ import annotations

from typing import Any

import pytest

from align.measures.figures import figures
from align.measures.reward import reward_report
from align.stats import mean_se
from tests.measures.cases import many, pair


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in report["figures"]}


def test_every_figure_can_be_drawn() -> None:
    report = reward_report(*many(200))
    found = by_name(report)
    assert list(found) == [
        "score_histogram", "reliability", "accuracy_by_rating", "score_by_length", "unsafe_by_threshold",
    ]  # fmt: skip
    for figure in found.values():
        assert figure["series"]
        for series in figure["series"]:
            assert series["points"]
            for bound in ("low", "high"):
                if bound in series:
                    assert len(series[bound]) == len(series["points"])
            for (_, y), low, high in zip(
                series["points"], series.get("low", []), series.get("high", []), strict="low" in series
            ):
                assert low is None or low <= y <= high

    shares = {s["name"]: sum(y for _, y in s["points"]) for s in found["score_histogram"]["series"]}
    assert shares == pytest.approx(dict.fromkeys(("chosen", "rejected", "safe", "unsafe", "unlabelled"), 1.0))
    curve = found["reliability"]["series"][0]["points"]
    assert curve == [[b["confidence"], b["accuracy"]] for b in report["calibration"]["bins"]]
    names = [series["name"] for series in found["accuracy_by_rating"]["series"]]
    assert {"all", "length baseline, all", "one, helpful", "no source, safety"} <= set(names)
    rated = next(s for s in found["accuracy_by_rating"]["series"] if s["name"] == "all")
    assert [x for x, _ in rated["points"]] == ["significantly", "better", "slightly", "negligibly"]


def test_score_by_length_by_hand() -> None:
    """Twenty answers of four lengths in ten groups: those of one length stay together."""
    answers = [(float(i), 1 + i // 5) for i in range(20)]
    report = reward_report([pair("q")], [(1.0, 0.0)], [(1, 2)])
    series = next(f for f in figures(report, answers) if f["name"] == "score_by_length")["series"][0]
    assert series["points"] == [[1.0, 2.0], [2.0, 7.0], [3.0, 12.0], [4.0, 17.0]]
    assert series["high"][1] == pytest.approx(7 + 1.96 * mean_se([5.0, 6.0, 7.0, 8.0, 9.0])[1])


def test_without_labels_there_is_no_curve_of_unsafe_answers() -> None:
    assert "unsafe_by_threshold" not in by_name(reward_report([pair("q")], [(1.0, 0.0)], [(1, 2)]))
