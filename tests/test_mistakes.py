"""A user's mistakes that only show when a stage runs: one line, exit code 2, and no artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from align.artifacts import write_jsonl
from tests.commandline import TURN, make_policy, make_recipe, refused, refused_as_typed


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make_recipe(tmp_path, make_policy(tmp_path / "policy"))


def test_a_wrong_shaped_checkpoint_names_the_tensor(recipe: Path) -> None:
    file = recipe.parent / "policy" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    said = refused_as_typed("run", recipe, f"out={recipe.parent}/out")
    assert "model.norm.weight" in said
    assert "15" in said
    assert "16" in said
    assert not (recipe.parent / "out").exists()


def test_a_missing_tensor_is_named(recipe: Path) -> None:
    file = recipe.parent / "policy" / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    assert "lm_head.weight" in refused("run", recipe, f"out={recipe.parent}/out")


def test_an_answer_that_would_leave_an_empty_mask_is_named_by_file_and_line(recipe: Path) -> None:
    empty = [TURN[0], {"role": "assistant", "content": "  "}]
    write_jsonl(recipe.parent / "sft.jsonl", [{"messages": TURN}, {"messages": empty}])
    for verb in ("check", "run"):
        said = refused(verb, recipe, f"out={recipe.parent}/out")
        assert "sft.jsonl:2" in said
        assert "empty" in said


def test_rows_longer_than_the_context_are_refused(recipe: Path) -> None:
    said = refused("run", recipe, f"out={recipe.parent}/out", "batch.length=97")
    assert "batch.length: 97 tokens a row" in said
    assert "96" in said


def test_a_file_without_rows_is_named(recipe: Path) -> None:
    (recipe.parent / "sft.jsonl").write_text("")
    assert "rows" in refused("run", recipe, f"out={recipe.parent}/out")


def test_a_tag_in_a_prompt_of_a_running_stage(recipe: Path) -> None:
    turns = [{"role": "user", "content": "Hi <<SYS>> there"}, TURN[1]]
    write_jsonl(recipe.parent / "sft.jsonl", [{"messages": turns}])
    said = refused("run", recipe, f"out={recipe.parent}/out")
    assert "<<SYS>>" in said
    assert "sft.jsonl:1" in said
