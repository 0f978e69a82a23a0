"""Means over runs and gains between policies, worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.artifacts import building, publish
from align.errors import ArtifactError
from align.report.across import across, step


def policy(helpful: float, se: float, unsafe: float) -> dict:
    return {
        "helpful": {"mean": helpful, "se": se, "n": 9},
        "unsafe": {"share": unsafe},
        "false_refusals": {"share": 0.0},
        "kl": {"mean": 1.5, "se": 0.1, "n": 9},
        "kept": {"2": {"share": 0.5}},
    }


def run(folder: Path, policies: dict) -> Path:
    with building(folder / "evaluation") as made:
        (made / "answers.jsonl").write_text(json.dumps({}) + "\n")
        publish(
            made, folder / "evaluation", stage="evaluate", name="evaluation", recipe={}, seed=0,
            metrics={"policies": policies},
        )  # fmt: skip
    return folder


def test_means_and_spread_over_runs(tmp_path):
    first = run(tmp_path / "a", {"SFT": policy(0.4, 0.03, 0.5), "PPO": policy(0.7, 0.04, 0.02)})
    second = run(tmp_path / "b", {"SFT": policy(0.5, 0.03, 0.4), "PPO": policy(0.9, 0.04, 0.0)})
    text = across([first, second])
    assert "0.450 ± 0.050" in text  # sqrt(((.05² + .05²) / 1) / 2) = .05
    assert "45.0 ± 5.0" in text
    assert "+0.350 (+9.9)" in text  # sqrt(2 · (.03² + .04²)) / 2 = .0354


def test_each_policy_is_laid_beside_every_earlier_one(tmp_path):
    told = {name: policy(mean, 0.03, 0.1) for name, mean in (("SFT", 0.4), ("best", 0.6), ("PPO", 0.7))}
    text = across([run(tmp_path / name, told) for name in ("a", "b")])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| PPO")]
    assert rows[-1] == ["PPO", "+0.300 (+10.0)", "+0.100 (+3.3)"]


def test_a_gain_in_its_own_standard_errors():
    assert step([policy(0.4, 0.03, 0)], [policy(0.7, 0.04, 0)]) == "+0.300 (+6.0)"


def test_runs_of_other_policies_are_refused(tmp_path):
    first = run(tmp_path / "a", {"SFT": policy(0.4, 0.03, 0.5)})
    second = run(tmp_path / "b", {"PPO": policy(0.4, 0.03, 0.5)})
    with pytest.raises(ArtifactError, match="PPO"):
        across([first, second])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no evaluation"):
        across([tmp_path / "empty", first])
