"""Safety context distillation run whole on random models: who answers what, how it is scored, what is kept, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from align.artifacts import read_manifest, work_dir, write_jsonl
from align.config import parse
from align.data.schema import messages_of, read_dialogs
from align.data.template import encode_prompt
from align.data.tokenizer import Tokenizer
from align.errors import ArtifactError, DataError, RecipeError, RunError
from align.model.weights import load_scorer
from align.records import Message
from align.rollout import journal
from align.rollout.scorer import score_rows
from align.stages.distill import Recipe, run
from tests.data.corpus import WORDS
from tests.stages.rounds import Runner


def recipe(**changes: Any) -> Recipe:
    values = {
        "stage": "distill", "policy": "p", "safety": "s", "prompts": "p.jsonl", "preprompts": "q.jsonl",
        "sampling": {"temperature": 1.0, "max_new_tokens": 16},
    }  # fmt: skip
    return parse(Recipe, values | changes, "distill.yaml")


@pytest.fixture(scope="module")
def policy(models: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random policy whose answers come to an end soon."""
    folder = tmp_path_factory.mktemp("brief") / "policy"
    shutil.copytree(models / "one/policy", folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][Tokenizer(folder / "tokenizer.model").eos] *= 4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture
def asked(home: Path, policy: str) -> Path:
    rows = [
        {
            "id": f"p{i}", "prompt": [{"role": "user", "content": f"who says {WORDS[i % len(WORDS)]} {i}?"}],
            "kind": "helpful" if i % 4 == 3 else "safety", "source": f"of/{i % 2}",
            "meta": {"category": "fox"} if i % 3 == 0 else {},
        }
        for i in range(16)
    ]  # fmt: skip
    write_jsonl(home / "asked.jsonl", rows)
    (home / "policy").symlink_to(policy)
    write_jsonl(home / "q.jsonl", [{"text": "a wise owl"}, {"text": "a fox loves peace", "category": "fox"}])
    return home


def distil(models: Path, asked: Path, name: str, **changes: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
    out = asked / name
    work_dir(out).mkdir(parents=True, exist_ok=True)
    values = {
        "policy": str(asked / "policy"), "safety": str(models / "safety"), "prompts": str(asked / "asked.jsonl"),
        "preprompts": str(asked / "q.jsonl"),
    }  # fmt: skip
    run(recipe(**(values | changes)), out)
    dialogs, pairs = (
        [json.loads(line) for line in (out / file).read_text().splitlines()]
        for file in ("dialogs.jsonl", "pairs.jsonl")
    )
    assert len(list(read_dialogs(out / "dialogs.jsonl"))) == len(dialogs)
    return dialogs, pairs, read_manifest(out, verify=True).metrics


def test_both_answers_are_scored_given_the_prompt_alone_and_the_better_is_kept(
    go: Runner, models: Path, asked: Path
) -> None:
    dialogs, pairs, metrics = distil(models, asked, "gated")
    assert [row["prompt_id"] for row in pairs] == [f"p{i}" for i in range(16) if i % 4 != 3]
    tokenizer, scorer = Tokenizer(models / "one/policy/tokenizer.model"), load_scorer(models / "safety")
    said = {
        name: {rollout.prompt: rollout for rollout in journal.read(work_dir(asked / "gated") / f"{name}.jsonl")}
        for name in ("original", "distilled")
    }
    for place, row in enumerate(pairs):
        number = int(row["prompt_id"][1:])
        assert row["preprompt"] == ("a fox loves peace" if number % 3 == 0 else "a wise owl")
        alone = encode_prompt(tokenizer, messages_of(row["prompt"]))
        for name, rollouts in said.items():
            answer, tokens = row[name], list(rollouts[place].tokens)
            assert answer["answer"] == tokenizer.decode(tokens).strip()
            assert answer["score"] == pytest.approx(score_rows(scorer, [[*alone, *tokens]])[0], abs=1e-4)
    kept = [row for row in pairs if row["kept"] == "distilled"]
    assert 0 < len(kept) < len(pairs), "or this test could not fail"
    for row in pairs:
        usable = row["distilled"]["finish"] == "stop" and bool(row["distilled"]["answer"])
        assert (row["kept"] == "distilled") == (usable and row["distilled"]["score"] > row["original"]["score"])
    assert [d["meta"]["prompt_id"] for d in dialogs] == [row["prompt_id"] for row in kept]
    assert all(len(d["messages"]) == 2 and "owl" not in d["messages"][0]["content"] for d in dialogs)
    assert metrics["prompts"] == {"read": 16, "adversarial": 12, "asked": 12, "cut": 0, "skipped": 0}
    assert (metrics["dialogs"], metrics["all"]["distilled_rows"]) == (len(kept), len(kept))
    assert metrics["categories"].keys() == {"fox", "no category"}
    # what was asked of the sampler: the prompt as it is, and with the preprompt as its system message
    by_file: dict[str, dict[int, list[int]]] = {}
    for file, request in go.asked:
        by_file.setdefault(file, {})[request.prompt] = list(request.tokens)
    for place, row in enumerate(pairs):
        plain = messages_of(row["prompt"])
        assert by_file["original.jsonl"][place] == encode_prompt(tokenizer, plain)
        before = (Message("system", row["preprompt"]), *plain)
        assert by_file["distilled.jsonl"][place] == encode_prompt(tokenizer, before)


def test_without_the_gate_every_answer_that_can_be_learnt_is(models: Path, asked: Path) -> None:
    gated, pairs, _ = distil(models, asked, "gated")
    ungated, same, metrics = distil(models, asked, "ungated", gate=False)
    assert [p | {"kept": None} for p in same] == [p | {"kept": None} for p in pairs], "the very same answers"
    ended = [p["prompt_id"] for p in pairs if p["distilled"]["finish"] == "stop" and p["distilled"]["answer"]]
    assert [d["meta"]["prompt_id"] for d in ungated] == ended
    assert len(gated) < len(ungated)
    assert metrics["gate"] is False
    both, _, told = distil(models, asked, "both", otherwise="original")
    assert {d["meta"]["prompt_id"]: d["meta"]["kept"] for d in both}.items() >= {
        d["meta"]["prompt_id"]: "distilled" for d in gated
    }.items()
    assert told["all"]["original_rows"] == len(both) - len(gated) > 0


def test_a_killed_job_samples_and_scores_nothing_twice(
    models: Path, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _, _ = distil(models, asked, "whole")
    from align.rollout import scorebook

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scorebook.ScoreBook, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            distil(models, asked, "again")
    work = work_dir(asked / "again")
    before = {name: (work / name).read_bytes() for name in ("original.jsonl", "distilled.jsonl")}
    again, _, _ = distil(models, asked, "again")
    assert again == whole
    assert {name: (work / name).read_bytes() for name in before} == before, "nothing was sampled anew"


def test_sources_and_a_part_of_the_prompts(models: Path, asked: Path) -> None:
    _, pairs, metrics = distil(models, asked, "part", sources=["of/0"], skip=2, take=4, by="generic", gate=False)
    assert [row["prompt_id"] for row in pairs] == ["p4", "p6", "p8", "p10"]
    assert {row["preprompt"] for row in pairs} == {"a wise owl"}
    assert metrics["prompts"]["adversarial"] == 8


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"sources": ["of/2"]}, DataError, r"asked\.jsonl: sources: found no safety prompt of 'of/2'.*did you mean"),
        ({"skip": 99}, DataError, r"asked\.jsonl: skip: found 12 adversarial prompts, expected more than 99"),
        ({"prompts": "none.jsonl"}, DataError, r"none\.jsonl: no such file"),
        ({"sampling": {"max_new_tokens": 250}}, DataError, r"p0 with its preprompt: found \d+ tokens, expected"),
        ({"sampling": {"max_new_tokens": 300}}, DataError, r"sampling\.max_new_tokens: found 300, expected less than"),
        ({"sampling": {"max_new_tokens": 1}}, RunError, r"of 12 prompts' distilled answers none is kept: \d+ did not"),
        ({"safety": "no/such"}, ArtifactError, "no/such: "),
    ],
)  # fmt: skip
def test_mistakes_are_told(models: Path, asked: Path, changes: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        distil(models, asked, "out", **changes)
    assert not (asked / "out").exists()


def test_another_tokenizer_is_refused(models: Path, asked: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "safety", tmp_path / "other")
    with (tmp_path / "other/tokenizer.model").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="other: found another tokenizer than that of"):
        distil(models, asked, "out", safety=str(tmp_path / "other"))


def test_recipes_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"otherwise: says what becomes of answers that the gate refuses"):
        recipe(gate=False, otherwise="original")
    with pytest.raises(RecipeError, match=r"by: expected 'category' or 'generic'.*did you mean 'category'"):
        recipe(by="categry")
