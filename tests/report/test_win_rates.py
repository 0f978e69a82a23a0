"""Win rates as a table, in `align tables` and on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from align.errors import ArtifactError
from align.measures.win_rate import win_rate
from align.report.page import write_report
from align.report.summary import summary
from align.report.win_rates import win_rates
from tests.report.runs import made
from tests.report.test_summary import cells, judged

EVEN = win_rate([1, 1, -1, 0], [(3, 3)] * 4)
NONE = win_rate([0] * 4, [(3, 3)] * 4)


def evaluation(run: Path, pairs: list[dict[str, Any]]) -> Path:
    told = {"format": 1, "prompts": 4, "ridge": 1.0, "pairs": pairs}
    policies = {name: judged(1) for name in ("SFT", "PPO", "V3")}
    return made(run, "exam", "evaluate", {"policies": policies}, rows={"answers.jsonl": []},
                files={"win_rates.json": told})  # fmt: skip


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    pairs = [
        {"judge": judge, "first": first, "second": second, **(NONE if judge == "dull" and first == "V3" else EVEN)}
        for judge in ("judge", "dull") for first, second in (("PPO", "SFT"), ("V3", "SFT"), ("V3", "PPO"))
    ]  # fmt: skip
    return evaluation(tmp_path / "run", pairs)


def test_one_row_a_judge_and_pair(exam: Path) -> None:
    found = win_rates(exam)
    assert found is not None
    assert found.title == "Win rates on 4 prompts: wins / (wins + losses) (95 % interval)"
    controlled = EVEN["length_controlled"]
    equal = f"66.7 ({100 * controlled['low']:.1f}–{100 * controlled['high']:.1f})"
    # Wilson 1927 of 2 in 3
    assert found.rows[0] == ["judge", "PPO", "SFT", "66.7 (20.8–93.9)", equal, 2, 1, 1]
    assert found.rows[4] == ["dull", "V3", "SFT", "–", "–", 0, 0, 4]
    assert ["judge", "PPO", "SFT", "66.7 (20.8–93.9)", equal, "2", "1", "1"] in cells(summary(exam.parent))


def test_the_page_draws_every_judge_with_its_numbers(exam: Path) -> None:
    page = write_report(exam.parent).read_text()
    assert '<section id="wins">' in page
    for key in ("exam-wins-judge", "exam-wins-judge-length", "exam-wins-dull", "exam-wins-dull-length"):
        data = json.loads(re.findall(rf'id="figure-{key}".*?<script[^>]*>(.*?)</script>', page, re.DOTALL)[0])
        assert [row[:2] for row in data["rows"]] == [["PPO", "SFT"], ["V3", "SFT"], ["V3", "PPO"]]
        assert data["rows"][0][2] == pytest.approx(2 / 3)
        assert data["rows"][2][2] is None if "dull" in key else data["rows"][2][2] == pytest.approx(2 / 3)


def test_nothing_is_shown_where_nothing_was_compared(tmp_path: Path) -> None:
    alone = evaluation(tmp_path / "run", [])
    assert win_rates(alone) is None
    assert '<section id="wins">' not in write_report(alone.parent).read_text()
    assert win_rates(tmp_path) is None


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "win_rates.json").write_text('{"pairs": 3}')
    with pytest.raises(ArtifactError, match=r"win_rates\.json: expected the win rates of an evaluation"):
        win_rates(tmp_path)


def test_scores_of_named_judges_are_means_in_the_table_and_distributions_on_the_page(tmp_path: Path) -> None:
    answers = [
        {"policy": p, "prompt_id": f"p{i}", "question": "?", "answer": "x", "judges": {"brief": -i + k, "rm": None}}
        for k, p in enumerate(("A", "B")) for i in range(3)
    ]  # fmt: skip
    policies = {
        name: {key: judged(1)[key] for key in ("kl", "tokens")}
        | {"judges": {"brief": {"mean": mean, "se": 0.5, "n": 3}, "rm": {"mean": None, "se": None, "n": 0}}}
        for name, mean in (("A", -1.0), ("B", 0.0))
    }
    made(tmp_path / "run", "exam", "evaluate", {"policies": policies}, rows={"answers.jsonl": answers})
    assert cells(summary(tmp_path / "run"))[:2] == [
        ["policy", "brief", "rm", "tokens", "KL, nats an answer"], ["A", "-1.000 ± 0.500", "–", "20.3", "3.46 ± 0.10"],
    ]  # fmt: skip
    page = write_report(tmp_path / "run").read_text()
    moved = json.loads(
        re.findall(r'id="figure-exam-judge-brief-shift".*?<script[^>]*>(.*?)</script>', page, re.DOTALL)[0]
    )
    assert {row[0]: row[2] for row in moved["rows"]} == {"A": -1.0, "B": 0.0}
    means = json.loads(re.findall(r'id="figure-exam-judge-brief".*?<script[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    assert [row[1:3] for row in means["rows"]] == [["A", -1.0], ["B", 0.0]]
    assert "exam-judge-rm" not in page, "nothing is known of it"
