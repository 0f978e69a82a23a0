"""Reward models side by side, from reports made of preferences made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import ArtifactError
from align.files import write_json
from align.measures.reward import document, reward_report
from align.report.judged import judged
from tests.measures.cases import pair


def test_one_row_a_model_and_set(tmp_path: Path) -> None:
    pairs = [pair(str(i), chosen_safe=True, rejected_safe=i > 1) for i in range(4)]
    told = reward_report(pairs, [(1.0, -1.0), (2.0, 3.0), (1.0, 0.5), (2.0, 1.0)], [(5, 3), (5, 3), (3, 5), (3, 3)])
    plain = reward_report([pair("q")], [(1.0, 0.0)], [(3, 3)])
    write_json(tmp_path / "b" / "report.json", document("b", {"mine": told, "other": plain}))
    (tmp_path / "old").mkdir()
    found = judged([tmp_path / "old", tmp_path / "b"])
    assert found is not None
    assert found.rows == [
        ["b", "mine", "75.0 (30.1–95.4)", "62.5 (21.9–90.8)", f"{told['length']['pairs']['spearman']['r']:+.3f}",
         f"{told['calibration']['ece']:.3f}", "50.0 (9.5–90.5)", "50.0 (9.5–90.5)", "100.0 %"],
        ["b", "other", "100.0 (20.7–100.0)", "50.0 (5.5–94.5)", "–", f"{plain['calibration']['ece']:.3f}",
         "–", "–", "–"],
    ]  # fmt: skip


def test_a_run_of_before_there_were_reports_and_a_broken_one(tmp_path: Path) -> None:
    assert judged([tmp_path / "old"]) is None
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "report.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"rm/report\.json: expected the report"):
        judged([tmp_path / "rm"])
