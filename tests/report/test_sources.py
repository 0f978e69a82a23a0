"""An evaluation by source of its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.artifacts import building, publish, write_jsonl
from align.report.sources import helpful_by_source
from align.report.summary import summary
from align.report.tables import markdown
from tests.report.test_summary import cells, judged


def evaluation(run: Path, sources: dict[str, str], answers: list[dict[str, Any]]) -> Path:
    rows = [{"id": i, "prompt": [{"role": "user", "content": i}], "source": s} for i, s in sources.items()]
    write_jsonl(run / "data" / "prompts.jsonl", rows)
    out = run / "exam"
    with building(out) as folder:
        write_jsonl(folder / "answers.jsonl", answers)
        publish(
            folder, out, stage="evaluate", name="exam", recipe={}, seed=0, inputs=[run / "data" / "prompts.jsonl"],
            metrics={"policies": {"V1": judged(1)}},
        )  # fmt: skip
    return out


def answer(policy: str, prompt: str, helpful: float) -> dict[str, Any]:
    return {"policy": policy, "prompt_id": prompt, "question": prompt, "answer": "x", "helpful": helpful}


def test_each_source_has_its_mean_and_error(tmp_path: Path) -> None:
    sources = {"a": "count", "b": "count", "c": "copy"}
    values = {"V1": (0.2, 0.6, 1.0), "V2": (0.0, 0.0, 0.5)}
    rows = [answer(p, i, v) for p, mine in values.items() for i, v in zip("abc", mine, strict=True)]
    out = evaluation(tmp_path, sources, rows)
    found = helpful_by_source(out)
    assert found is not None
    assert cells(markdown(found)) == [
        ["policy", "copy (1)", "count (2)"],
        ["V1", "1.00 ± –", "0.40 ± 0.20"],
        ["V2", "0.50 ± –", "0.00 ± 0.00"],
    ]
    assert markdown(found) in summary(tmp_path)


def test_there_is_none_without_a_judge_of_one_source_or_without_the_prompts(tmp_path: Path) -> None:
    unjudged = [{"policy": "V1", "prompt_id": i, "question": i, "answer": "x"} for i in "ab"]
    assert helpful_by_source(evaluation(tmp_path / "1", {"a": "x", "b": "y"}, unjudged)) is None
    judged_rows = [answer("V1", i, 0.5) for i in "ab"]
    assert helpful_by_source(evaluation(tmp_path / "2", {"a": "x", "b": "x"}, judged_rows)) is None
    gone = evaluation(tmp_path / "3", {"a": "x", "b": "y"}, judged_rows)
    (tmp_path / "3" / "data" / "prompts.jsonl").unlink()
    assert helpful_by_source(gone) is None
