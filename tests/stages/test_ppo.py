"""PPO's choices, each in a run or an iteration: warm-up, mixing, adapters, held-out prompts, bounds, phases."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align.artifacts import read_manifest, work_dir, write_jsonl
from align.engine import checkpoint
from align.engine.clock import Clock
from align.engine.launch import LaunchConfig, launch
from align.engine.metrics import read_metrics
from align.engine.zero_state import gathered, state_tensors
from align.errors import TrainingError
from align.losses.kl import adapted_beta
from align.model.weights import load_policy, load_scorer
from align.records import Batch
from align.rollout.experience import Experience, logprob_reader, over_answers
from align.rollout.judge import RewardModels
from align.stages import ppo
from align.stages.ppo import Recipe
from align.stages.ppo.learn import appraise, improve
from align.stages.ppo.models import Models
from tests.stages import ppo_toy as toy
from tests.stages.test_ppo_resume import plain

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toy.save_models(tmp_path_factory.mktemp("ppo"))


def given() -> Any:
    prompts, answers = toy.rollouts(12, toy.MODEL.vocab_size)
    return toy.collected(prompts, answers, [[-6.0 - 0.1 * t for t in range(len(a))] for a in answers])


def iterate(recipe: Recipe, models: Models, iteration: int = 0, **rest: Any) -> tuple[Experience, dict[str, float]]:
    experience, _, seen = appraise(recipe, models, given(), recipe.ppo.beta, Clock())
    return experience, seen | improve(recipe, models, iteration, experience, **rest)


def weights(engine: Any) -> dict[str, Tensor]:
    return dict(gathered(engine))


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def start(models: Path, home: Path, name: str = "ppo", **changes: Any) -> Path:
    """A whole run over the tokenizer's models; its artifact."""
    out = home / name
    work_dir(out).mkdir(parents=True)
    recipe = plain(models, home, **changes)
    from align.config import parse

    ppo.run(parse(Recipe, recipe, "ppo.yaml"), out)
    return out


def test_while_the_critic_warms_up_it_learns_alone(folders: dict[str, Path]) -> None:
    recipe = toy.recipe(folders, ppo={"critic_warmup": 1, "iterations": 3})
    with toy.opened(recipe) as models:
        assert models.policy.total_steps == 2 * 3
        assert models.critic.total_steps == 3 * 3
        policy, critic = weights(models.policy), weights(models.critic)
        _, seen = iterate(recipe, models, iteration=0)
        assert not changed(policy, weights(models.policy))
        assert changed(critic, weights(models.critic))
        assert not {"gap", "update/policy_loss"} & seen.keys()
        _, seen = iterate(recipe, models, iteration=1)
        assert changed(policy, weights(models.policy))
        assert {"gap", "update/policy_loss"} <= seen.keys()


def test_every_epoch_sees_every_answer_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """12 answers in mini-batches of 5, 5 and 2."""
    from align.stages.ppo import learn

    seen: list[list[int]] = []
    real = learn._micros
    monkeypatch.setattr(learn, "_micros", lambda *a: (seen.append(list(a[-1])), real(*a))[1])
    recipe = toy.recipe(folders, ppo={"epochs": 2})
    with toy.opened(recipe) as models:
        iterate(recipe, models)
        assert models.policy.steps == models.policy.total_steps == 6
    assert [len(rows) for rows in seen] == [5, 5, 2, 5, 5, 2]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(12))
    assert seen[:3] != seen[3:]


def test_ptx_adds_the_gradient_of_the_mean_cross_entropy(folders: dict[str, Path]) -> None:
    """One update from one start: its first moment less that without the mix is the mix's gradient."""
    ptx = {"weight": 3.0, "text": ["t.txt"], "rows": 2, "micro_rows": 1, "length": 16}
    rows = torch.randint(3, 1000, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(9) > torch.tensor([[0], [4]])
    micros = [Batch(rows[i : i + 1], mask[i : i + 1], torch.arange(9)[None], None) for i in range(2)]
    moments = []
    for mix in (None, lambda step: micros):
        recipe = toy.recipe(folders, ppo={"mini_batch": 12}, ptx=ptx)
        with toy.opened(recipe) as models:
            _, seen = iterate(recipe, models, mix=mix)
            moments.append({k: t for k, t in state_tensors(models.policy) if k.startswith("exp_avg/")})
    plainly = load_policy(folders["policy"])
    logprobs = plainly(rows)[:, :-1].log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
    loss = -logprobs[mask[:, 1:]].mean()
    (3.0 * loss).backward()
    assert seen["update/ptx"] == pytest.approx(float(loss.detach()), abs=1e-5)
    for name, parameter in plainly.named_parameters():
        found = (moments[1][f"exp_avg/{name}"] - moments[0][f"exp_avg/{name}"]) * 10
        assert parameter.grad is not None
        torch.testing.assert_close(found, parameter.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_with_adapters_the_frozen_models_are_the_bases(folders: dict[str, Path], stage: int) -> None:
    recipe = toy.recipe(folders, lora=LORA, critic_lora=LORA, critic="safety", zero={"stage": stage}, ppo={"epochs": 2})
    rolled = given()
    with toy.opened(recipe) as models:
        policy, critic = weights(models.policy), weights(models.critic)
        _, first = iterate(recipe, models)
        _, seen = iterate(recipe, models)  # the adapters have moved by now
        assert all("lora_" in name for name in changed(policy, weights(models.policy)))
        moved = changed(critic, weights(models.critic))
        assert {name for name in moved if "lora_" not in name} == {"critic.score.weight"}
        assert first["kl/answer"] == seen["kl/answer"], "the reference stays where it was"

        read = logprob_reader(load_policy(folders["policy"]), 1.0)
        expected = over_answers(read, rolled.prompts, rolled.answers, 64)
        found = models.read(logprob_reader(models.reference, 1.0), rolled.prompts, rolled.answers)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        scores = models.score(rolled.prompts, rolled.answers, rolled.is_safety)
        alone = RewardModels(folders["helpful"], folders["safety"], 0.15)
        apart = alone.score(rolled.prompts, rolled.answers, rolled.is_safety)
        for one, other in zip(scores, apart, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)

        merged = load_policy(folders["policy"])
        own = dict(merged.named_parameters())
        with torch.no_grad():
            for name, tensor in models.weights():
                own[name].copy_(tensor)
        trained = models.read(logprob_reader(models.policy, 1.0), rolled.prompts, rolled.answers)
        torch.testing.assert_close(
            over_answers(logprob_reader(merged, 1.0), rolled.prompts, rolled.answers, 64), trained, rtol=0, atol=1e-5
        )
        assert float((trained - expected).abs().max()) > 1e-3


def test_nothing_is_forwarded_twice_and_the_head_runs_on_answers_alone(folders: dict[str, Path]) -> None:
    """Tokens through each model's embedding and rows through the language heads, over a whole iteration."""
    recipe = toy.recipe(folders, micro_tokens=4096, ppo={"epochs": 2, "mini_batch": 12})
    rolled, tokens = given(), Counter[str]()
    whole = sum(len(p) + len(a) for p, a in zip(rolled.prompts, rolled.answers, strict=True))
    answers = sum(map(len, rolled.answers))
    with toy.opened(recipe) as models:
        judge = models.reward
        named = {
            "policy": models.policy.module, "critic": models.critic.module, "reference": models._reference,
            "helpful": judge.helpful, "safety": judge.safety,
        }  # fmt: skip
        for name, module in named.items():
            module.model.register_forward_hook(
                lambda m, a, out, name=name: tokens.update({name: int((a[0] > 0).sum())})  # random tokens are not 0
            )
            if hasattr(module, "lm_head"):
                module.lm_head.register_forward_hook(
                    lambda m, a, out, name=name: tokens.update({f"{name} head": len(a[0])})
                )
        iterate(recipe, models)
    assert tokens == {
        "helpful": whole, "safety": whole, "reference": whole, "critic": 3 * whole, "policy": 2 * whole,
        "policy head": 2 * answers, "reference head": answers,
    }  # fmt: skip


def test_a_run_keeps_the_best_and_the_last(models: Path, tmp_path: Path) -> None:
    out = start(models, tmp_path, ppo={"critic_warmup": 0})
    made, rows = read_manifest(out, verify=True), read_metrics(out / "metrics.jsonl")
    judged = [rows[0]["held_out_start/score"], *(row["held_out/score"] for row in rows)]
    assert made.metrics["held_out"]["best"] == max(judged)
    best = made.metrics["held_out"]["iteration"]
    assert judged[best] == max(judged)
    assert judged.index(max(judged)) == best
    folder = out if best < 5 else out / "last"
    assert load_policy(folder).config == load_policy(out / "last").config
    betas = [row["kl/beta"] for row in rows]
    for row, now, then in zip(rows, betas, betas[1:], strict=False):
        assert then == pytest.approx(adapted_beta(now, row["kl/answer"], 1.0, 50.0, 6))
    other = start(models, tmp_path, "other", ppo={"critic_warmup": 0}, held_out={
        "prompts": str(tmp_path / "held-out.jsonl"), "every": 1, "publish": "last"})  # fmt: skip
    for one, two in ((out, other / "best"), (out / "last", other)):
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
        assert (one / "tokenizer.model").read_bytes() == (two / "tokenizer.model").read_bytes()
    assert not list(work_dir(out).glob("best-*"))
    timed = read_metrics(out / "timings.jsonl")[1]
    phases = {"sync", "rollout", "score", "reference", "value", "update", "held_out", "save"}
    assert phases <= timed.keys()
    assert sum(timed[f"share/{phase}"] for phase in phases) == pytest.approx(1.0)
    assert timed["tokens_per_second"] > 0
    assert timed["memory/host"] > 0


def test_policies_on_the_way_are_kept(models: Path, tmp_path: Path) -> None:
    """Every second of four; the last of them is the artifact itself."""
    out = start(models, tmp_path, ppo={"critic_warmup": 0, "iterations": 4}, held_out=None, keep_policies=2)
    kept = out / "policies"
    assert sorted(folder.name for folder in kept.iterdir()) == ["2", "4"]
    assert (kept / "4/model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (kept / "2/model.safetensors").read_bytes() != (out / "model.safetensors").read_bytes()
    assert (kept / "2/tokenizer.model").read_bytes() == (out / "tokenizer.model").read_bytes()
    shorter = start(models, tmp_path, "two", ppo={"critic_warmup": 0, "iterations": 2}, held_out=None)
    assert (kept / "2/model.safetensors").read_bytes() == (shorter / "model.safetensors").read_bytes()
    assert {name.split("/")[0] for name in read_manifest(out, verify=True).files} >= {"policies"}
    assert not (work_dir(out) / "policies").exists()


def test_a_policy_that_gets_no_better_ends_the_run(models: Path, tmp_path: Path) -> None:
    """At a rate of 0 every judgement is the same, since its randomness is: the first stays the best."""
    held = tmp_path / "held-out.jsonl"
    still = {"lr": 0.0, "weight_decay": 0.0}
    out = start(
        models, tmp_path, optim=toy.OPTIM | still, ppo={"critic_warmup": 0},
        held_out={"prompts": str(held), "every": 1, "patience": 2},
    )  # fmt: skip
    metrics = read_manifest(out).metrics
    assert "in 2 judgements" in metrics["stopped"]
    assert metrics["held_out"]["iteration"] == 0
    assert len(read_metrics(out / "metrics.jsonl")) == 2


def test_a_run_stops_before_it_trains_on_nan(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load_scorer(models / "helpful")
    scorer.score.weight.data.fill_(math.nan)
    monkeypatch.setattr("align.model.weights.load_scorer", lambda *a, **k: copy.deepcopy(scorer))
    monkeypatch.setattr("align.rollout.judge.load_scorer", lambda *a, **k: copy.deepcopy(scorer))
    with pytest.raises(TrainingError, match=r"iteration 0: reward/combined is nan; a reward model gave it"):
        start(models, tmp_path, held_out=None)
    assert checkpoint.latest(work_dir(tmp_path / "ppo") / "checkpoints") is None
    logged = (work_dir(tmp_path / "ppo") / "metrics.jsonl").read_text().splitlines()
    assert math.isnan(json.loads(logged[0])["reward/combined"])


def test_a_run_mixes_dialogues_and_text_in(models: Path, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "who says yes?"}, {"role": "assistant", "content": "a fox"}]
    write_jsonl(tmp_path / "sft.jsonl", [{"messages": said}] * 3)
    (tmp_path / "text.txt").write_text("a fox says yes\nan owl says no\n")
    ptx = {
        "data": [{"path": str(tmp_path / "sft.jsonl")}], "text": [str(tmp_path / "text.txt")],
        "rows": 2, "micro_rows": 1, "length": 64,
    }  # fmt: skip
    out = start(models, tmp_path, held_out=None, ptx=ptx, ppo={"iterations": 2})
    rows = read_metrics(out / "metrics.jsonl")
    assert "update/ptx" not in rows[0], "the critic warms up alone"
    assert 0 < rows[1]["update/ptx"] < 20
    manifest = read_manifest(out)
    assert manifest.recipe["ptx"]["weight"] == 27.8
    assert {Path(entry["path"]).name for entry in manifest.inputs} == {"prompts.jsonl", "sft.jsonl", "text.txt"}


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True])
def test_two_processes_run_as_one(models: Path, tmp_path: Path, adapters: bool) -> None:
    """Held-out judging, best and last, adapters and split weights: everything that is a collective."""
    changes: dict[str, Any] = {"zero": {"stage": 3}, "ppo": {"iterations": 2, "critic_warmup": 0}}
    if adapters:
        changes |= {"lora": LORA, "critic_lora": LORA}
    alone = start(models, tmp_path, "alone", **changes)
    out = tmp_path / "both"
    work_dir(out).mkdir(parents=True)
    recipe = plain(models, tmp_path, **changes, launch={"processes": 2})
    launch("align.stages.ppo", recipe, out, LaunchConfig(processes=2))
    both = (read_metrics(folder / "metrics.jsonl") for folder in (alone, out))
    for one, two in zip(*both, strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    for folder in ("", "last"):
        expected = dict(load_policy(alone / folder).named_parameters())
        for name, parameter in load_policy(out / folder).named_parameters():
            torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-4)
