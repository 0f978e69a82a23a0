"""Scores against KL along training, from a run folder made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest
from align.config import parse
from align.errors import RecipeError
from align.report.against_kl import against_kl
from align.report.page import write_report
from align.report.summary import summary
from align.report.tables import markdown
from align.stages.evaluate import Recipe
from tests.report.runs import made
from tests.report.test_summary import cells


def measured(kl: float, reward: float, helpful: float, unsafe: float) -> dict[str, Any]:
    def mean(value: float) -> dict[str, float]:
        return {"mean": value, "se": 0.1, "n": 4}

    def share(value: float) -> dict[str, float]:
        return {"share": value, "low": 0.0, "high": 1.0, "n": 4}

    return {
        "helpful": mean(helpful), "unsafe": share(unsafe), "false_refusals": share(0.0), "kl": mean(kl),
        "tokens": mean(9.0), "reward": mean(reward),
    }  # fmt: skip


POLICIES = {
    "start": measured(0.0, 1.0, 0.4, 0.5), "a 10": measured(1.0, 2.0, 0.6, 0.25), "a 20": measured(3.0, 3.0, 0.5, 0.75),
    "b 10": measured(0.5, 1.5, 0.5, 0.5),
}  # fmt: skip
RUNS = {"a": ["start", "a 10", "a 20"], "b": ["start", "b 10"]}


def evaluation(run: Path, policies: dict[str, Any], **recipe: Any) -> Path:
    return made(run, "exam", "evaluate", {"policies": policies}, recipe=recipe, rows={"answers.jsonl": []})


def test_a_table_and_a_figure_of_each_score(tmp_path: Path) -> None:
    out = evaluation(tmp_path, POLICIES, against_kl=RUNS)
    (table,), figures = against_kl(read_manifest(out))
    assert cells(markdown(table)) == [
        ["run", "policy", "KL, nats an answer", "reward, logits", "helpful", "unsafe answers"],
        ["a", "start", "0.00 ± 0.10", "1.000 ± 0.100", "0.400 ± 0.100", "50.0 %"],
        ["a", "a 10", "1.00 ± 0.10", "2.000 ± 0.100", "0.600 ± 0.100", "25.0 %"],
        ["a", "a 20", "3.00 ± 0.10", "3.000 ± 0.100", "0.500 ± 0.100", "75.0 %"],
        ["b", "start", "0.00 ± 0.10", "1.000 ± 0.100", "0.400 ± 0.100", "50.0 %"],
        ["b", "b 10", "0.50 ± 0.10", "1.500 ± 0.100", "0.500 ± 0.100", "50.0 %"],
    ]
    reward, helpful = figures
    assert [series["name"] for series in helpful["series"]] == ["a", "b"]
    assert helpful["series"][0]["points"] == [[0.0, 0.4], [1.0, 0.6], [3.0, 0.5]]
    assert reward["series"][1]["points"] == [[0.0, 1.0], [0.5, 1.5]]
    assert reward["series"][1]["high"] == pytest.approx([1.196, 1.696])
    assert markdown(table) in summary(tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Helpful against KL, along training" in page
    assert "Reward against KL, along training" in page


def test_reward_models_alone_and_no_interval_of_a_single_answer(tmp_path: Path) -> None:
    alone = {"mean": 1.0, "se": None, "n": 1}
    out = evaluation(tmp_path, {"p": {"kl": alone, "reward": alone, "tokens": alone}}, against_kl={"a": ["p"]})
    (table,), (figure,) = against_kl(read_manifest(out))
    assert table.columns == ("run", "policy", "KL, nats an answer", "reward, logits")
    assert figure["series"][0]["low"] == [None]


def test_none_where_the_recipe_names_no_runs(tmp_path: Path) -> None:
    assert against_kl(read_manifest(evaluation(tmp_path, POLICIES))) == ([], [])


def test_a_policy_that_is_not_evaluated_is_refused() -> None:
    given = {
        "stage": "evaluate", "policies": {"start": "p"}, "reference": "p", "prompts": "q",
        "judge": "align.world.oracle:judge", "sampling": {"max_new_tokens": 4}, "against_kl": {"a": ["strat"]},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"against_kl: found 'strat', expected a name of policies.*'start'"):
        parse(Recipe, given, "evaluate.yaml")
