"""The table of reward models over their epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.report.summary import summary
from tests.report.test_summary import artifact, cells


def point(epoch: float, loss: float, **held_out: float) -> dict[str, Any]:
    sets = {name: {"accuracy": 0.5 + value / 10, "loss": value} for name, value in held_out.items()}
    return {"epoch": epoch, "train": {"accuracy": 0.625, "loss": loss}, "held_out": sets}


def test_one_row_a_look(tmp_path: Path) -> None:
    artifact(
        tmp_path, "one", "reward", {"held_out_curve": [point(0.5, 0.7, harmless=0.6), point(1, 0.5, harmless=0.55)]}
    )
    artifact(tmp_path, "two", "reward", {"held_out_curve": [point(2, 0.25, harmless=0.9, other=0.8)]})
    artifact(tmp_path, "unseen", "reward", {})
    assert cells(summary(tmp_path))[-4:] == [
        ["reward model", "epoch", "training since the row above", "harmless", "other"],
        ["one", "0.50", "62.5 (0.700)", "56.0 (0.600)", "–"],
        ["one", "1.00", "62.5 (0.500)", "55.5 (0.550)", "–"],
        ["two", "2.00", "62.5 (0.250)", "59.0 (0.900)", "58.0 (0.800)"],
    ]


def test_nothing_where_nobody_looked(tmp_path: Path) -> None:
    artifact(tmp_path, "unseen", "reward", {})
    assert "epoch" not in summary(tmp_path)
