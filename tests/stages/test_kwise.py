"""The reward stage on rankings: how prompts are dealt changes nothing, and each choice of mean is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.artifacts import read_manifest, write_jsonl
from align.config import parse
from align.data.batches import BatchConfig, pair_batches
from align.data.compared import ComparedRow
from align.engine.step import update
from align.losses import kwise_ranking_loss
from align.model.heads import Scorer
from align.model.weights import load_scorer
from align.records import Row
from align.runner import make_task, perform
from align.stages.reward import Recipe, counts, terms
from tests.data.corpus import WORDS
from tests.model.peers import randomise, tiny

OPTIM = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1, "clip": 1.0, "schedule": "cosine"}
RECIPE: dict[str, Any] = {
    "stage": "reward", "policy": "p", "data": {"main": ["m.jsonl"]}, "held_out": {}, "margins": "none",
    "batch": {"rows": 4, "micro_rows": 2, "length": 64}, "optim": OPTIM, "zero": {"stage": 0, "dtype": "fp32"},
}  # fmt: skip


class Plain:
    """An engine that is not one: the module's forward and plain gradients."""

    def __init__(self) -> None:
        self.module = Scorer(tiny(max_seq_len=64))
        randomise(self.module)
        self.steps, self.lr, self.grad_norm, self.device = 0, 0.0, 0.0, torch.device("cpu")

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self.module(*args, **more)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.steps += 1


def ranked() -> tuple[list[ComparedRow], list[list[int]]]:
    """Seven prompts with 2 to 5 answers, weakly ordered; every pair that is no tie, with its ranks."""
    rng = np.random.default_rng(0)
    elements, ranks = [], []
    for number, k in enumerate((4, 2, 5, 4, 3, 2, 4)):
        prompt = rng.integers(3, 90, rng.integers(1, 9)).tolist()
        documents = [[1, *prompt, *rng.integers(3, 90, rng.integers(1, 9)).tolist(), 2] for _ in range(k)]
        rank = [1, 2, *rng.integers(1, 4, k - 2).tolist()]
        rows = tuple(Row(np.array(d, dtype=np.int32), np.arange(len(d)) > 0) for d in documents)
        pairs = tuple((i, j) for i in range(k) for j in range(k) if rank[i] < rank[j])
        zeros, share = (0.0,) * len(pairs), 2 / (k * (k - 1))
        elements.append(ComparedRow(rows, pairs, zeros, (3,) * len(pairs), (-1,) * k, share, number))
        ranks.append(rank)
    return elements, ranks


def updated(elements: list[ComparedRow], mean_over: str, micro: int, world: int) -> tuple[float, dict[str, Any], Any]:
    """Loss, counts and gradients of one update on all prompts, dealt to ``world`` ranks one after another."""
    recipe = parse(Recipe, RECIPE | {"mean_over": mean_over}, "recipe")
    batch = BatchConfig(rows=len(elements), micro_rows=micro, length=64)
    deals = [pair_batches(elements, batch, seed=3, rank=rank, world=world)(0) for rank in range(world)]
    engine: Any = Plain()
    result = update(
        engine,
        [one for deal in deals for one in deal],
        lambda b: counts(b, mean_over),
        lambda e, b: terms(e, b, recipe.mean_over, recipe.safety_weight),
    )
    gradients = {name: p.grad for name, p in engine.module.named_parameters()}
    return result.losses["loss"], result.counts, gradients


def by_definition(elements: list[ComparedRow], ranks: list[list[int]], mean_over: str) -> tuple[float, Any]:
    """Plain rows through the module, one at a time: InstructGPT's equation 1 prompt by prompt, or pair by pair."""
    module = Plain().module
    losses = []
    for element, rank in zip(elements, ranks, strict=True):
        tokens = [torch.from_numpy(row.tokens.astype(np.int64))[None] for row in element.answers]
        scores = torch.stack([module(one)[0, -1] for one in tokens])
        if mean_over == "prompts":
            losses.append(kwise_ranking_loss(scores[None], torch.tensor([rank]))[0])
        else:
            losses += [-torch.log(torch.sigmoid(scores[c] - scores[r])) for c, r in element.pairs]
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("mean_over", ["pairs", "prompts"])
def test_each_mean_is_what_it_says_however_prompts_are_dealt(mean_over: str) -> None:
    elements, ranks = ranked()
    expected, gradients = by_definition(elements, ranks, mean_over)
    pairs = sum(len(element.pairs) for element in elements)
    for micro, world in ((7, 1), (1, 1), (2, 1), (3, 2), (2, 3)):
        loss, counts, found = updated(elements, mean_over, micro, world)
        assert loss == pytest.approx(expected, abs=1e-6)
        assert counts["loss"] == (pairs if mean_over == "pairs" else len(elements))
        assert counts["accuracy"] == pairs
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 3), size=st.integers(2, 4), world=st.integers(1, 2))
def test_all_pairs_of_a_prompt_are_in_one_element_as_often_as_any(seed: int, size: int, world: int) -> None:
    elements, _ = ranked()
    batch = BatchConfig(rows=size, micro_rows=1, length=64)
    ranks = [pair_batches(elements, batch, seed=seed, rank=rank, world=world) for rank in range(world)]
    seen: list[int] = []
    for step in range(len(elements)):
        for micro in (one for rank in ranks for one in rank(step)):
            seen += micro.rows.tolist()
            assert len(micro.margin) == len(elements[int(micro.rows[0])].pairs)
    assert sorted(seen) == sorted(list(range(len(elements))) * size), "as many epochs as an update has rows"


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def rankings(count: int, offset: int = 0) -> list[dict[str, Any]]:
    """Answers of one to four words, the longer the better, two of them a tie."""
    return [
        {
            "prompt": [message("user", f"who says {WORDS[(i + offset) % 20]} {i + offset}?")],
            "answers": [[message("assistant", " ".join([WORDS[i % 20]] * n))] for n in (1, 4, 2, 2)],
            "comparisons": [
                {"pair": [0, 1], "chosen": 1, "rating": "significantly"}, {"pair": [2, 0], "chosen": 2},
                {"pair": [2, 3], "chosen": None}, {"pair": [1, 3], "chosen": 1, "rating": "slightly"},
            ],
        }
        for i in range(count)
    ]  # fmt: skip


def pair(i: int) -> dict[str, Any]:
    one = rankings(1, i)[0]
    return {"prompt": one["prompt"], "chosen": one["answers"][1], "rejected": one["answers"][0], "rating": "better"}


@pytest.fixture
def recipe(models: Path, tmp_path: Path) -> dict[str, Any]:
    write_jsonl(tmp_path / "ranked.jsonl", rankings(12))
    write_jsonl(tmp_path / "pairs.jsonl", [pair(100 + i) for i in range(6)])
    write_jsonl(tmp_path / "held.jsonl", rankings(3, 200))
    write_jsonl(tmp_path / "held_pairs.jsonl", [pair(300), pair(301), pair(302), pair(100)])
    return RECIPE | {
        "policy": str(models / "one" / "policy"),
        "data": {"main": [str(tmp_path / "ranked.jsonl")], "other": [str(tmp_path / "pairs.jsonl")], "main_share": 0.8},
        "held_out": {"ranked": str(tmp_path / "held.jsonl"), "pairs": str(tmp_path / "held_pairs.jsonl")},
        "margins": "small", "batch": {"rows": 4, "micro_rows": 2, "length": 64, "epochs": 2}, "measure_every": 3,
    }  # fmt: skip


def trained(recipe: dict[str, Any], out: Path) -> Any:
    perform(make_task(recipe, "recipe", out), lambda line: None)
    return read_manifest(out, verify=True)


def test_rankings_and_preferences_train_one_model(recipe: dict[str, Any], tmp_path: Path) -> None:
    """12 rankings and 3 of 5 pairs (the sixth's prompt is held out), two epochs of 15 rows in updates of four."""
    manifest = trained(recipe, tmp_path / "rm")
    told = manifest.metrics["rows"]
    assert told["rankings"] == 12
    assert told["preferences"] == 3
    assert told["shared_prompts"] == 1
    assert told["pairs"] == 12 * 3 + 3
    assert told["ties"] == 12
    assert manifest.metrics["held_out/ranked"]["all"]["n"] == 9
    assert manifest.metrics["held_out_rows"]["ranked"].items() >= {"pairs": 9, "skipped": 0, "cut": 0}.items()
    assert manifest.metrics["held_out/pairs"]["all"]["n"] == 4
    rows = [json.loads(line) for line in (tmp_path / "rm" / "metrics.jsonl").read_text().splitlines()]
    looked = [row["step"] + 1 for row in rows if "held_out/ranked/loss" in row]
    assert looked == [3, 6, 8]
    curve = manifest.metrics["held_out_curve"]
    assert [point["epoch"] for point in curve] == pytest.approx([step * 4 / 15 for step in looked])
    assert curve[-1]["held_out"]["ranked"]["accuracy"] == manifest.metrics["held_out/ranked"]["all"]["accuracy"]
    assert curve[1]["train"]["loss"] == pytest.approx(sum(row["loss"] for row in rows[3:6]) / 3)
    assert curve[-1]["held_out"]["pairs"]["loss"] == rows[-1]["held_out/pairs/loss"]
    again = trained(recipe, tmp_path / "rm-2")
    assert again.files["model.safetensors"] == manifest.files["model.safetensors"]
    assert again.files["metrics.jsonl"] == manifest.files["metrics.jsonl"]


def test_looking_at_the_held_out_sets_changes_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    seen, unseen = (
        trained(recipe | {"measure_every": n}, tmp_path / f"rm-{n}").files["model.safetensors"] for n in (1, 0)
    )
    assert seen == unseen


def test_the_last_look_is_the_published_model_s(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Its loss worked out again from the weights on the disk, a pair at a time."""
    from align.data.template import encode_dialog
    from align.data.tokenizer import Tokenizer
    from align.records import Message

    manifest = trained(recipe, tmp_path / "rm")
    scorer, tokenizer = load_scorer(tmp_path / "rm"), Tokenizer(tmp_path / "rm" / "tokenizer.model")
    losses, right = [], []
    for row in map(json.loads, Path(recipe["held_out"]["pairs"]).read_text().splitlines()):
        scores = []
        for answer in (row["chosen"], row["rejected"]):
            dialog = tuple(Message(m["role"], m["content"]) for m in (*row["prompt"], *answer))
            tokens = encode_dialog(tokenizer, dialog).tokens.astype(np.int64)
            scores.append(float(scorer(torch.from_numpy(tokens)[None])[0, -1].detach()))
        losses.append(float(np.log1p(np.exp(scores[1] - scores[0]))))
        right.append(scores[0] > scores[1])
    last = manifest.metrics["held_out_curve"][-1]["held_out"]["pairs"]
    assert last["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert last["accuracy"] == np.mean(right)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(recipe: dict[str, Any], tmp_path: Path) -> None:
    logged = []
    for processes in (1, 2):
        out = tmp_path / f"rm-{processes}"
        zero = {"stage": 3 if processes > 1 else 0, "dtype": "fp32"}
        trained(recipe | {"launch": {"processes": processes}, "mean_over": "prompts", "zero": zero}, out)
        logged.append([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
    for alone, shared in zip(*logged, strict=True):
        assert shared == pytest.approx(alone, abs=1e-4)
