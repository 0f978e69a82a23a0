"""Figures that an artifact brings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from align.errors import ArtifactError
from align.measures.reward import document, reward_report
from align.report.page import write_report
from tests.measures.cases import pair
from tests.report.runs import made

CURVE = {"name": "tradeoff", "title": "Trade-off", "x": "KL", "y": "score", "series": [
    {"name": "beta 0.1", "points": [[0.0, 1.0], [2.0, 3.0]], "low": [0.5, None], "high": [1.5, None]},
    {"name": "beta 1", "points": [[0.0, 1.0], [1.0, None]]},
]}  # fmt: skip
RATED = {"name": "rated", "title": "By rating", "x": "rating", "y": "accuracy",
         "series": [{"name": "all", "points": [["better", 0.5], ["slightly", 0.25]]}]}  # fmt: skip


def data(page: str, key: str) -> dict[str, list[list[object]]]:
    found = re.findall(rf'id="figure-{key}".*?<script[^>]*>(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1, key
    return json.loads(found[0])  # type: ignore[no-any-return]


def test_a_stage_s_own_figures_are_drawn(tmp_path: Path) -> None:
    made(tmp_path / "run", "sweep", "evaluate", files={"figures.json": [CURVE, RATED]})
    page = write_report(tmp_path / "run").read_text()
    assert data(page, "sweep-tradeoff")["rows"] == [
        ["beta 0.1", 0.0, 1.0, 0.5, 1.5], ["beta 0.1", 2.0, 3.0, None, None],
        ["beta 1", 0.0, 1.0, None, None], ["beta 1", 1.0, None, None, None],
    ]  # fmt: skip
    assert [row[:3] for row in data(page, "sweep-rated")["rows"]] == [["all", "better", 0.5], ["all", "slightly", 0.25]]


def test_a_reward_model_s_report_stands_with_the_last_of_its_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = reward_report([pair("q")], [(1.0, 0.0)], [(3, 3)])
    report = document("rm", {"helpful": told | {"figures": [RATED]}})
    made(run, "rm", "reward", files={"report.json": report})
    made(run, "rm-2", "reward", parents=["rm"], files={"report.json": report})
    page = write_report(run).read_text()
    assert "rm-2 on helpful" in page
    assert "rm on helpful" not in page
    assert data(page, "rm-2-helpful-rated")["rows"]
    assert "rm on helpful" in write_report(run / "rm").read_text()


@pytest.mark.parametrize("bad", [[{}], [{"name": "a"}], ["x"], [CURVE | {"series": [{"points": [1]}]}]])
def test_a_broken_figure_is_named(tmp_path: Path, bad: object) -> None:
    made(tmp_path / "run", "sweep", "evaluate", files={"figures.json": bad})
    with pytest.raises(ArtifactError, match="sweep: a figure"):
        write_report(tmp_path / "run")
