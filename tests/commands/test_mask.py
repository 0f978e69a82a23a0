from __future__ import annotations

from pathlib import Path

import pytest

from align.artifacts import write_jsonl
from tests.commandline import TURN, align, here, make_policy, make_recipe, refused


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("shelf") / "policy")


@pytest.fixture
def recipe(tmp_path: Path, policy: Path) -> Path:
    return make_recipe(tmp_path, policy)


def test_mask_prints_what_counts(recipe: Path, policy: Path) -> None:
    plain = here("mask", recipe.parent / "sft.jsonl", "--tokenizer", policy, "--rows", "1")
    assert plain.returncode == 0, plain.stderr
    head, *body = plain.stdout.splitlines()
    assert head.startswith(f"{recipe.parent / 'sft.jsonl'}:1: ")
    assert head.endswith("count")
    assert "\x1b[" not in plain.stdout
    coloured = align("mask", recipe, "--rows", "1", "--color")
    assert "\x1b[1;32m" in coloured.stdout  # counted tokens
    assert "\x1b[90m" in coloured.stdout  # the prompt
    assert body
    assert "--train: found 'lst', expected all or last" in refused(
        "mask", recipe.parent / "sft.jsonl", "--tokenizer", policy, "--train", "lst"
    )
    assert "--tokenizer: must be given" in refused("mask", recipe.parent / "sft.jsonl")


def test_mask_of_preferences_and_prompts(tmp_path: Path, policy: Path) -> None:
    pairs, prompts = tmp_path / "pairs.jsonl", tmp_path / "prompts.jsonl"
    other = [{"role": "assistant", "content": "No."}]
    write_jsonl(
        pairs, [{"prompt": TURN[:1], "chosen": TURN[1:], "rejected": other, "rating": "better", "kind": "helpful"}]
    )  # fmt: skip
    write_jsonl(prompts, [{"id": "1", "prompt": TURN[:1], "kind": "helpful"}])
    shown = here("mask", pairs, "--tokenizer", policy)
    assert f"{pairs}:1 chosen: " in shown.stdout, shown.stderr
    assert f"{pairs}:1 rejected: " in shown.stdout
    ranked = tmp_path / "ranked.jsonl"
    write_jsonl(ranked, [{"prompt": TURN[:1], "answers": [TURN[1:], other], "ranks": [1, 2]}])
    assert f"{ranked}:1 answers.1: " in here("mask", ranked, "--tokenizer", policy).stdout
    assert "tokens, 0 count" in here("mask", prompts, "--tokenizer", policy).stdout
