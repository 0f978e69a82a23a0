"""Adapters in the stages: a frozen base, a plain artifact, and mistakes told with the recipe."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align.artifacts import write_jsonl
from align.commands.memory import estimate
from align.config import parse
from align.data.preference import pair_rows, read_pairs
from align.data.tokenizer import Tokenizer
from align.engine import zero
from align.errors import RecipeError
from align.model.config import Dtype, LlamaConfig
from align.model.llama import Llama
from align.model.weights import load_policy, load_scorer, save_policy
from align.runner import make_task
from align.stages import reward, sft
from tests.engine.small import tokenizer_in
from tests.model.peers import randomise

CONFIG = LlamaConfig(vocab_size=400, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=96, max_seq_len=128)
OPTIM = {
    "lr": 0.01, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1, "clip": 1.0, "schedule": "constant",
}  # fmt: skip
LORA = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "up_proj"]}


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose weights bf16 cannot hold, dialogues and preferences."""
    folder = tmp_path_factory.mktemp("lora")
    base = Llama(CONFIG)
    randomise(base)
    save_policy(base, CONFIG, folder / "base")
    shutil.copyfile(tokenizer_in(folder), folder / "base" / "tokenizer.model")
    words = ["hello", "the quick fox", "who loves chess", "a lazy dog in paris"]
    write_jsonl(folder / "sft.jsonl", [{"messages": said(words[i % 4], f"napoleon {i}")} for i in range(12)])
    pairs = [
        {"prompt": said(words[i % 4]), "chosen": [*said("", f"yes {i}")[1:]], "rejected": [*said("", "no no")[1:]]}
        for i in range(12)
    ]
    write_jsonl(folder / "pairs.jsonl", pairs)
    write_jsonl(folder / "held.jsonl", [pair | {"prompt": said(f"and {i}")} for i, pair in enumerate(pairs)])
    return folder


def values(stage: str, folder: Path, dtype: Dtype, **more: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"data": [{"path": str(folder / "sft.jsonl")}]}
    if stage == "reward":
        pairs = str(folder / "pairs.jsonl")
        data = {"data": {"main": [pairs]}, "held_out": {"other": str(folder / "held.jsonl")}, "margins": "small"}
    batch = {"rows": 4, "micro_rows": 2, "length": 64}
    common = {"stage": stage, "policy": str(folder / "base"), "batch": batch, "optim": OPTIM}
    return {**common, **data, "zero": {"stage": 0, "dtype": dtype}, "lora": LORA, **more}


class Spy:
    """Keeps what a stage's engine last computed: the module's answer before it was merged and written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engines: list[zero.Engine] = []
        made = zero.wrap

        def wrap(*arguments: Any) -> zero.Engine:
            self.engines.append(made(*arguments))
            return self.engines[-1]

        monkeypatch.setattr(zero, "wrap", wrap)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_sft_merges_its_adapters_into_the_base_as_it_came(
    dtype: Dtype, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, out = Spy(monkeypatch), tmp_path / "out"
    sft.run(parse(sft.Recipe, values("sft", folder, dtype), "recipe"), out)
    base, made = weights(load_policy(folder / "base")), weights(load_policy(out))
    for name in base:
        touched = name.split(".")[-2] in LORA["targets"]  # type: ignore[operator]
        assert torch.equal(base[name], made[name]) != touched, name
        if touched:
            assert torch.linalg.matrix_rank((made[name] - base[name]).double(), rtol=1e-4) <= 4
    tokens = torch.randint(3, 400, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unmerged = spy.engines[0](tokens)
        merged = load_policy(out)(tokens)
    assert (merged - load_policy(folder / "base")(tokens)).abs().max() > 0.1
    near = 1e-5 if dtype == "fp32" else 0.3  # bf16 rounds every activation of the unmerged one
    torch.testing.assert_close(merged, unmerged, rtol=near, atol=near)


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_reward_model_scores_as_it_was_trained(
    stage: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, out = Spy(monkeypatch), tmp_path / "out"
    recipe = parse(reward.Recipe, values("reward", folder, "fp32", zero={"stage": stage, "dtype": "fp32"}), "recipe")
    reward.run(recipe, out)
    base, made = weights(load_policy(folder / "base")), weights(load_scorer(out))
    for name, tensor in made.items():
        if name != "score.weight":
            assert torch.equal(base[name], tensor) != (name.split(".")[-2] in LORA["targets"]), name  # type: ignore[operator]
    tokens = torch.randint(3, 400, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(load_scorer(out)(tokens), spy.engines[0](tokens), rtol=1e-5, atol=1e-5)
    from align.artifacts import read_manifest
    from align.measures.reward import by_rating

    pairs = read_pairs([folder / "held.jsonl"])
    held = pair_rows(Tokenizer(out / "tokenizer.model"), pairs, margins="none", max_len=64)
    told = read_manifest(out, verify=True).metrics["held_out/other"]
    assert told == by_rating(reward.measure(load_scorer(out), pairs, held)), "measured with its adapters"
    assert told["all"]["accuracy"] > 0.9, "and they learn"


def test_mistakes_are_told_with_the_recipe(folder: Path) -> None:
    for lora, message in (
        ({"targets": ["q_porj"]}, r"lora\.targets\.0: .*did you mean 'q_proj'"),
        ({"targets": []}, "at least one linear layer must be named"),
        ({"rank": 0}, r"lora\.rank: .*found 0"),
        ({"ranks": 4}, r"lora\.ranks: unknown key.*'rank'"),
    ):
        for stage in (sft, reward):
            given = values(stage.__name__.rpartition(".")[2], folder, "fp32", lora=lora)
            with pytest.raises(RecipeError, match=message):
                parse(stage.Recipe, given, "recipe")


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_memory_counts_adapters_and_checkpointing(stage: str, folder: Path) -> None:
    def needed(**more: Any) -> float:
        found = estimate(make_task(values(stage, folder, "bf16", **more), "recipe", folder / "out"), {})
        assert found is not None
        return found["training"]

    assert needed() < needed(lora=None)

    def layers_kept(mode: str) -> float:
        return needed(zero={"stage": 1, "dtype": "bf16", "checkpointing": mode}, batch=batch)

    batch = {"rows": 4, "micro_rows": 4, "length": 128}
    assert layers_kept("full") < layers_kept("none") == needed(zero={"stage": 1, "dtype": "bf16"}, batch=batch)
