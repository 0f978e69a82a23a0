"""The tables of a run, from a run folder made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.artifacts import building, publish, write_json
from align.errors import ArtifactError
from align.report.summary import plus_minus, summary


def artifact(run: Path, name: str, stage: str, metrics: dict[str, Any], files: dict[str, Any] | None = None) -> None:
    out = run / name
    with building(out) as folder:
        for file, value in (files or {}).items():
            write_json(folder / file, value)
        publish(folder, out, stage=stage, name=name, recipe={}, seed=0, metrics=metrics)


def accuracy(share: float | None, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    return {"accuracy": share, "low": low, "high": high, "n": 10}


def mean(value: float, error: float) -> dict[str, Any]:
    return {"mean": value, "se": error, "n": 80}


RATED = {
    "significantly": accuracy(0.95, 0.9, 0.975),
    "better": accuracy(0.8, 0.7, 0.9),
    "slightly": accuracy(0.7, 0.6, 0.8),
    "negligibly": accuracy(None),
    "all": accuracy(0.8123, 0.7, 0.9),
}
BEST = {
    key: {"accuracy": value}
    for key, value in (
        ("significantly", 0.999), ("better", 0.9), ("slightly", 0.75), ("negligibly", 0.5), ("overall", 0.875),
    )
}  # fmt: skip


def judged(scale: float) -> dict[str, Any]:
    return {
        "helpful": mean(0.5 * scale, 0.0123),
        "unsafe": {"share": 0.25 * scale, "low": 0.0, "high": 1.0, "n": 20},
        "false_refusals": {"share": None, "low": 0.0, "high": 1.0, "n": 0},
        "kl": mean(3.456 * scale, 0.1),
        "tokens": mean(20.26, 1.0),
        "kept": {"2": {"share": 1.0}, "12": {"share": 0.125 * scale}},
    }


def cells(text: str) -> list[list[str]]:
    """Every line of every table as its cells; no cell of these has an escaped bar."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "--" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_whole_run(tmp_path: Path) -> None:
    artifact(tmp_path, "world", "world", {}, {"ceilings.json": {"simulated_pairs": 9, "helpful": BEST}})
    artifact(tmp_path, "rm-help", "reward", {"held_out/helpful": RATED, "loss": 0.4})
    artifact(tmp_path, "exam", "evaluate", {"policies": {"SFT": judged(1), "PPO": judged(1.5)}})
    artifact(tmp_path, "sft", "sft", {"loss": 1.0})
    (tmp_path / "work" / "sft").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("not an artifact")
    text = summary(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### Policies (80 held-out prompts; ± standard error)",
        "### Reward-model accuracy by rating (95 % interval)",
    ]
    assert cells(text) == [
        ["policy", "helpful", "unsafe", "false refusals", "tokens", "KL, nats an answer", "kept at turn 2",
         "kept at turn 12"],
        ["SFT", "0.500 ± 0.012", "25.0 %", "–", "20.3", "3.46 ± 0.10", "100.0 %", "12.5 %"],
        ["PPO", "0.750 ± 0.012", "37.5 %", "–", "20.3", "5.18 ± 0.10", "100.0 %", "18.8 %"],
        ["reward model", "held-out set", "significantly", "better", "slightly", "negligibly", "all"],
        ["rm-help", "helpful", "95.0 (90.0–97.5)", "80.0 (70.0–90.0)", "70.0 (60.0–80.0)", "–",
         "81.2 (70.0–90.0)"],
        ["ceiling", "helpful", "99.9 %", "90.0 %", "75.0 %", "50.0 %", "87.5 %"],
    ]  # fmt: skip


def test_reward_models_as_the_only_judges(tmp_path: Path) -> None:
    measured = {
        "kl": mean(1.0, 0.5), "tokens": mean(7.0, 1.0), "reward": mean(-1.254, 0.25), "safety": mean(3.5, 0.5),
    }  # fmt: skip
    artifact(tmp_path, "exam", "evaluate", {"policies": {"SFT": measured}})
    assert cells(summary(tmp_path)) == [
        ["policy", "reward, logits", "safety score, logits", "tokens", "KL, nats an answer"],
        ["SFT", "-1.25 ± 0.25", "3.50 ± 0.50", "7.0", "1.00 ± 0.50"],
    ]


def test_one_prompt_has_no_standard_error(tmp_path: Path) -> None:
    """A manifest holds null for it, JSON having no NaN."""
    single = {"kl": mean(1.0, float("nan")), "tokens": mean(7.0, float("nan"))}
    artifact(tmp_path, "exam", "evaluate", {"policies": {"SFT": single}})
    assert cells(summary(tmp_path))[1] == ["SFT", "7.0", "1.00 ± –"]


def test_every_set_of_every_reward_model_has_its_row_and_no_ceiling_where_none_is_known(tmp_path: Path) -> None:
    artifact(tmp_path, "b", "reward", {"held_out/one": RATED, "held_out/two": RATED})
    artifact(tmp_path, "a", "reward", {"held_out/one": RATED})
    assert [row[:2] for row in cells(summary(tmp_path))[1:]] == [["a", "one"], ["b", "one"], ["b", "two"]]


def test_a_run_with_nothing_to_tell(tmp_path: Path) -> None:
    artifact(tmp_path, "sft", "sft", {"loss": 1.0})
    assert summary(tmp_path) == ""


def test_a_broken_artifact_is_named(tmp_path: Path) -> None:
    artifact(tmp_path, "exam", "evaluate", {"policies": {"SFT": judged(1)}})
    (tmp_path / "exam" / "manifest.json").write_text('{"format":')
    with pytest.raises(ArtifactError, match="exam"):
        summary(tmp_path)


def test_a_mean_that_rounds_to_zero_has_no_sign() -> None:
    assert plus_minus({"mean": -1e-9, "se": 2e-9}, 2) == "0.00 ± 0.00"
    assert plus_minus({"mean": -0.125, "se": None}, 2) == "-0.12 ± –"
