"""The stage that sits exams, whole, at toy size: marks against transformers' own, files against their schema."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from align.artifacts import read_manifest, write_jsonl
from align.config import parse
from align.data.explain import explain
from align.data.tokenizer import Tokenizer
from align.errors import DataError, RecipeError
from align.exams.truthfulqa import COLUMNS
from align.stages.exam import Recipe, run
from tests.exams.test_humaneval import ROW
from tests.exams.test_truthfulqa import GOOD
from tests.exams.test_winogender import HEAD, NURSE


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """All four exams, small."""
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, GOOD, ("Foxes", "who loves chess?", "a fox", "a fox", "nobody; a bear")])
    (tmp_path / "w.tsv").write_text(HEAD + "".join(f"{line}\n" for line in NURSE), encoding="utf-8")
    (tmp_path / "o.tsv").write_text("occupation\tbls_pct_female\nnurse\t89.58\n", encoding="utf-8")
    write_jsonl(tmp_path / "g.jsonl", [{"question": f"what is {i}?", "answer": f"#### {i}"} for i in range(3)])
    write_jsonl(tmp_path / "h.jsonl", [ROW, {**ROW, "task_id": "HumanEval/1"}])
    return {
        "truthfulqa": {"path": str(tmp_path / "t.csv"), "form": "plain", "primer": False},
        "winogender": {"path": str(tmp_path / "w.tsv"), "form": "plain", "occupations": str(tmp_path / "o.tsv")},
        "gsm8k": {
            "path": str(tmp_path / "g.jsonl"), "form": "plain", "max_new_tokens": 12,
            "shots": {"path": str(tmp_path / "g.jsonl"), "count": 1},
        },
        "humaneval": {
            "path": str(tmp_path / "h.jsonl"), "form": "plain", "run_programs": True, "samples": 2, "k": [1, 2],
            "temperature": 1.0, "max_new_tokens": 12,
        },
    }  # fmt: skip


def sit(models: Path, out: Path, policies: tuple[str, ...] = ("one", "two"), **given: Any) -> dict[str, Any]:
    (out.parent / "work" / out.name).mkdir(parents=True, exist_ok=True)
    values = {"stage": "exam", "policies": {name: str(models / name / "policy") for name in policies}, **given}
    run(parse(Recipe, values, "exam.yaml"), out)
    marks: dict[str, Any] = json.loads((out / "exams.json").read_text())
    assert explain("exam", marks) is None
    manifest = read_manifest(out, verify=True)
    assert manifest.metrics["exams"] == marks["policies"]
    return marks["policies"]  # type: ignore[no-any-return]


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def test_two_policies_sit_all_exams(models: Path, papers: dict[str, Any], tmp_path: Path) -> None:
    marks = sit(models, tmp_path / "out", **papers)
    assert list(marks) == ["one", "two"]
    for mark in marks.values():
        assert list(mark) == ["truthfulqa", "winogender", "gsm8k", "humaneval"]
        assert {name: one["questions"] for name, one in mark.items()} == {
            "truthfulqa": 2, "winogender": 6, "gsm8k": 2, "humaneval": 2,
        }  # fmt: skip
        assert mark["gsm8k"]["shown"] == 1
        assert sum(mark["humaneval"]["results"].values()) == 4
        assert mark["winogender"]["gotcha"]["gotcha"]["all"]["n"] == 2
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 2 * (2 + 6 + 2 + 2), "every question of every policy is kept"
    asked = [row for row in rows if row["exam"] == "winogender" and row["policy"] == "one"]
    correct = sum(row["correct"] for row in asked) / len(asked)
    assert marks["one"]["winogender"]["accuracy"]["accuracy"] == pytest.approx(correct)
    inputs = {Path(entry["path"]).name for entry in read_manifest(tmp_path / "out").inputs}
    assert inputs == {"t.csv", "w.tsv", "o.tsv", "g.jsonl", "h.jsonl"}


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_scores_are_those_of_transformers(form: str, models: Path, papers: dict[str, Any], tmp_path: Path) -> None:
    """Each option read alone by another library, its tokens found anew."""
    sit(models, tmp_path / "out", ("one",), truthfulqa=papers["truthfulqa"] | {"form": form})
    peer = LlamaForCausalLM.from_pretrained(models / "one/policy", dtype=torch.float32)
    tokenizer = Tokenizer(models / "one/policy/tokenizer.model")
    for row in rows_of(tmp_path / "out"):
        question = row["question"]
        before = f"Q: {question}\nA:" if form == "plain" else f"[INST] {question} [/INST]"
        head = [tokenizer.bos, *tokenizer.encode(before)]
        for option, found in zip(row["options"], row["logprobs"], strict=True):
            ids = [tokenizer.bos, *tokenizer.encode(f"{before} {option}")]
            assert ids[: len(head)] == head
            with torch.no_grad():
                logprobs = peer(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            alone = sum(float(logprobs[place - 1, ids[place]]) for place in range(len(head), len(ids)))
            assert found == pytest.approx(alone, abs=1e-3)


def test_gsm8k_s_answers_are_the_greedy_ones(models: Path, papers: dict[str, Any], tmp_path: Path) -> None:
    sit(models, tmp_path / "out", ("one",), gsm8k=papers["gsm8k"] | {"shots": None})
    peer = LlamaForCausalLM.from_pretrained(models / "one/policy", dtype=torch.float32)
    tokenizer = Tokenizer(models / "one/policy/tokenizer.model")
    for row in rows_of(tmp_path / "out"):
        prompt = [tokenizer.bos, *tokenizer.encode(f"Question: {row['question']}\nAnswer:")]
        made = peer.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=tokenizer.eos, pad_token_id=0
        )
        whole = tokenizer.decode(made[0].tolist())
        assert row["answer"] == whole[len(tokenizer.decode(prompt)) :]


def test_another_policy_beside_it_changes_nothing(models: Path, papers: dict[str, Any], tmp_path: Path) -> None:
    both = sit(models, tmp_path / "both", humaneval=papers["humaneval"], gsm8k=papers["gsm8k"])
    alone = sit(models, tmp_path / "alone", ("two",), humaneval=papers["humaneval"], gsm8k=papers["gsm8k"])
    assert both["two"] == alone["two"]
    answers = [[row for row in rows_of(tmp_path / name) if row["policy"] == "two"] for name in ("both", "alone")]
    assert answers[0] == answers[1]


def test_what_does_not_fit_is_named_or_counted(models: Path, papers: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerow(("Long", "who? " * 200, "No", "No", "Yes"))
    with pytest.raises(DataError, match=r"t\.csv:4: found \d+ tokens, expected at most 256; overlong: skip"):
        sit(models, tmp_path / "out", truthfulqa=papers["truthfulqa"])
    mark = sit(models, tmp_path / "out", truthfulqa=papers["truthfulqa"], overlong="skip")["one"]["truthfulqa"]
    assert (mark["questions"], mark["skipped"]) == (2, 1)
    with pytest.raises(DataError, match=r"g\.jsonl: found 3 questions, all longer than 4 tokens"):
        sit(models, tmp_path / "o", gsm8k=papers["gsm8k"] | {"max_new_tokens": 252, "shots": None}, overlong="skip")
    (tmp_path / "w.tsv").write_text(HEAD, encoding="utf-8")
    with pytest.raises(DataError, match="found no questions"):
        sit(models, tmp_path / "o", winogender=papers["winogender"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "found no exam, expected truthfulqa, winogender, gsm8k or humaneval"),
        ({"policies": {}}, "policies: found none"),
        ({"truthfulqa": {"path": "t.csv", "form": "chats"}}, "(did you mean 'chat'?)"),
        ({"truthful": {}}, "truthful: unknown key (did you mean 'truthfulqa'?)"),
    ],
)
def test_a_recipe_that_is_none(given: dict[str, Any], said: str) -> None:
    values = {"stage": "exam", "policies": {"a": "b"}, **given}
    with pytest.raises(RecipeError) as caught:
        parse(Recipe, values, "exam.yaml")
    assert said in str(caught.value)
