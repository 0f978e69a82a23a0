"""Self-BLEU against temperature, run whole at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest, write_jsonl
from align.config import parse
from align.data.explain import explain
from align.errors import DataError, RecipeError
from align.measures.bleu import self_bleu
from align.report.diversity import self_bleu as table_of
from align.report.page import write_report
from align.report.summary import summary
from align.stages.temperature import Recipe, run


def recipe(models: Path, source: Path, **changes: Any) -> Recipe:
    values = {
        "stage": "temperature", "policies": {"A": str(models / "one/policy"), "B": str(models / "two/policy")},
        "prompts": {"factual": {"path": str(source), "sources": ["fact"], "take": 2},
                    "creative": {"path": str(source)}},
        "temperatures": [1.0, 0.01, 0.5], "samples": 3, "max_new_tokens": 6,
    }  # fmt: skip
    return parse(Recipe, values | changes, "t.yaml")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    question = {"prompt": [{"role": "user", "content": "who loves chess?"}]}
    write_jsonl(path, [question | {"id": f"p{i}", "source": ("fact", "open")[i % 2]} for i in range(6)])
    return path


@pytest.fixture(scope="module")
def made(models: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "temperature"
    (out.parent / "work" / out.name).mkdir(parents=True)
    run(recipe(models, prompts), out)
    return out


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_every_policy_answers_every_prompt_at_every_temperature(made: Path) -> None:
    found = rows(made)
    counted = {(r["policy"], r["prompts"], r["prompt_id"], r["temperature"], r["sample"]) for r in found}
    factual, creative = ["p0", "p2"], [f"p{i}" for i in range(6)]
    assert counted == {
        (policy, key, prompt, temperature, sample)
        for policy in "AB" for key, ids in (("factual", factual), ("creative", creative)) for prompt in ids
        for temperature in (1.0, 0.01, 0.5) for sample in range(3)
    }  # fmt: skip
    assert len(counted) == len(found)


def test_the_curves_are_of_these_answers(made: Path) -> None:
    told = json.loads((made / "self_bleu.json").read_text())
    assert explain("self_bleu", told) is None
    assert [(c["policy"], c["prompts"], c["n"]) for c in told["curves"]] == [
        ("A", "factual", 2), ("A", "creative", 6), ("B", "factual", 2), ("B", "creative", 6),
    ]  # fmt: skip
    said = rows(made)
    for each in told["curves"]:
        assert [at["temperature"] for at in each["points"]] == [0.01, 0.5, 1.0]
        for at in each["points"]:
            mine = [
                r
                for r in said
                if all(r[k] == each[k] for k in ("policy", "prompts")) and r["temperature"] == at["temperature"]
            ]
            by_prompt = [[r["answer"] for r in mine if r["prompt_id"] == key] for key in {r["prompt_id"] for r in mine}]
            assert at["mean"] == pytest.approx(sum(map(self_bleu, by_prompt)) / len(by_prompt))
        assert each["points"][0]["mean"] > each["points"][-1]["mean"], "nearly greedy answers are alike"
        assert each["slope"]["mean"] < 0


def test_the_table_and_the_page_show_them(made: Path) -> None:
    table = table_of(read_manifest(made, verify=True))
    assert table is not None
    assert table.columns == ["prompts", "policy", "T = 0.01", "T = 1", "slope a unit of T"]
    assert len(table.rows) == 4
    assert "Self-BLEU of 3 answers a prompt" in summary(made.parent)
    page = write_report(made).read_text()
    assert '<section id="diversity">' in page
    assert 'id="curves"' not in page, "nothing is trained here"
    for name in ("factual", "creative"):
        data = json.loads(
            page.split(f'id="figure-temperature-self-bleu-{name}"')[1]
            .split("application/json")[1]
            .split(">")[1]
            .split("<")[0]
        )
        assert {row[0] for row in data["rows"]} == {"A", "B"}
        assert len(data["rows"]) == 6


def test_a_killed_run_goes_on_to_the_same_bytes(made: Path, models: Path, prompts: Path, tmp_path: Path) -> None:
    work = tmp_path / "work" / "temperature"
    work.mkdir(parents=True)
    whole = (made.parent / "work" / "temperature" / "0-2.jsonl").read_bytes()
    (work / "0-2.jsonl").write_bytes(whole[: len(whole) // 2])
    run(recipe(models, prompts), tmp_path / "temperature")
    for name in ("answers.jsonl", "self_bleu.json", "figures.json"):
        assert (tmp_path / "temperature" / name).read_bytes() == (made / name).read_bytes()


def test_mistakes(models: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected each once"):
        recipe(models, prompts, temperatures=[0.5, 0.5])
    with pytest.raises(RecipeError, match="temperatures"):
        recipe(models, prompts, temperatures=[0.0])
    with pytest.raises(RecipeError, match="samples"):
        recipe(models, prompts, samples=1)
    (tmp_path / "work" / "t").mkdir(parents=True)
    bad = recipe(models, prompts, prompts={"factual": {"path": str(prompts), "sources": ["fcat"]}})
    with pytest.raises(DataError, match=r"p\.jsonl: no prompt of source 'fcat' \(did you mean 'fact'\?\); there are"):
        run(bad, tmp_path / "t")
