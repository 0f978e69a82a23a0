"""An iteration of PPO equals an independent slow one: rewards, advantages, losses, gradients and new weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from align.engine.clock import Clock
from align.engine.zero_state import state_tensors
from align.stages.ppo import Recipe
from align.stages.ppo.learn import appraise, improve, shuffled
from align.stages.ppo.models import Models
from tests.conftest import REPO
from tests.oracles import ppo as slow
from tests.stages import ppo_toy as toy

TIGHT: dict[str, float] = {"rel": 1e-5, "abs": 1e-5}
# what is varied: how it is cut into forward passes and updates, and every choice of formula
CASES: dict[str, dict[str, Any]] = {
    "packed": {"micro_tokens": 4096, "zero": {"stage": 0}},
    "an answer a forward": {
        "micro_tokens": 1, "zero": {"stage": 0},
        "ppo": {"epochs": 3, "score_scale": "whiten_by_prompt", "score_clip": 0.7, "entropy_weight": 0.01},
        "sampling": {"temperature": 0.7},
    },
    "zero3": {
        "micro_tokens": 40, "zero": {"stage": 3},
        "ppo": {
            "epochs": 2, "score_scale": "unit_variance", "no_eos_score": None, "gamma": 0.9, "lam": 0.5,
            "shuffle": "prompts",
        },
    },
    "zero3, one update, clipped": {
        "micro_tokens": 4096, "zero": {"stage": 3}, "optim": {"clip": 0.5}, "critic_optim": {"clip": 0.5},
        "ppo": {"prompts": 12, "samples": 1, "mini_batch": 12, "score_scale": "whiten_by_kind"},
    },
}  # fmt: skip


QUICK = ("packed", "zero3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toy.save_models(tmp_path_factory.mktemp("ppo"))


def rollouts(folders: dict[str, Path], recipe: Recipe) -> Any:
    """Twelve answers; the log-probs recorded are off the policy's, so that every side of the clip is met."""
    prompts, answers = toy.rollouts(12, toy.MODEL.vocab_size, samples=recipe.ppo.samples)
    policy, generator = slow.open_policy(folders["policy"]), torch.Generator().manual_seed(5)
    logprobs = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            now = slow.answer_logprobs(policy, prompt, answer, recipe.sampling.temperature)
        logprobs.append((now + 0.3 * torch.randn(len(answer), generator=generator)).tolist())
    return prompts, answers, logprobs


def expected(folders: dict[str, Path], recipe: Recipe) -> Any:
    """The slow iteration, with its policy, critic and their optimizers."""
    ppo, optim = recipe.ppo, recipe.optim
    settings = slow.Settings(
        scale=ppo.score_scale, samples=ppo.samples, score_clip=ppo.score_clip, no_eos=ppo.no_eos_score,
        threshold=recipe.threshold, temperature=recipe.sampling.temperature, beta=ppo.beta, gamma=ppo.gamma,
        lam=ppo.lam, clip=ppo.clip, value_clip=ppo.value_clip, value_weight=ppo.value_weight,
        entropy_weight=ppo.entropy_weight, lr=optim.lr, betas=optim.betas, eps=optim.eps, decay=optim.weight_decay,
        max_norm=optim.clip,
    )  # fmt: skip
    prompts, answers, logprobs = rollouts(folders, recipe)
    given = toy.collected(prompts, answers, logprobs)
    batches = []
    for epoch in range(ppo.epochs):  # the order is data, not arithmetic: it is asked of the library
        order = shuffled(12, ppo.samples if ppo.shuffle == "prompts" else 1, epoch, recipe.seed)
        batches += [order[start : start + ppo.mini_batch] for start in range(0, 12, ppo.mini_batch)]
    policy, critic = slow.open_policy(folders["policy"]), slow.open_scorer(folders["helpful"])
    critic.score.weight.data.zero_()
    done, *optimizers = slow.iteration(
        folders, policy, critic, [list(p) for p in prompts], [list(a) for a in answers], logprobs,
        given.finished.tolist(), given.is_safety, batches, settings,
    )  # fmt: skip
    return given, done, optimizers


def check(models: Models, recipe: Recipe, given: Any, done: slow.Done, optimizers: list[slow.AdamW]) -> None:
    experience, _, seen = appraise(recipe, models, given, recipe.ppo.beta, Clock())
    for row, answer in enumerate(given.answers):
        for name in ("rewards", "advantages", "returns"):
            found = getattr(experience, name)[row, : len(answer)].tolist()
            assert found == pytest.approx(getattr(done, name)[row], **TIGHT), (name, row)
    seen = improve(recipe, models, 0, experience)
    mean = {
        "policy_loss": done.policy_losses, "value_loss": done.value_losses, "entropy": done.entropies,
        "clipped": done.clipped, "grad_norm": done.policy_norms, "critic_grad_norm": done.critic_norms,
    }  # fmt: skip
    for name, values in mean.items():
        assert seen[f"update/{name}"] == pytest.approx(sum(values) / len(values), **TIGHT), name
    for engine, adam in zip(models.engines.values(), optimizers, strict=True):
        named = {name: p.detach() for name, p in adam.named.items()}
        slowly = {"weight": named, "exp_avg": adam.m, "exp_avg_sq": adam.v}
        for key, tensor in state_tensors(engine):
            kind, _, name = key.partition("/")
            # gradients are seen through AdamW's moments
            scale = 1.0 if kind == "weight" else 10 * float(slowly[kind][name].abs().max())
            gap = float((tensor - slowly[kind][name]).abs().max())
            assert gap <= 1e-5 * scale, (key, gap)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_two_processes_are_the_slow_one(folders: dict[str, Path], stage: int, tmp_path: Path) -> None:
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"folders": {name: str(path) for name, path in folders.items()}, "stage": stage}))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.stages.test_ppo_oracle", str(task)],
        cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "rank-1.json").read_text()) == json.loads((tmp_path / "rank-0.json").read_text())
    assert len(json.loads((tmp_path / "rank-0.json").read_text())) == 2


def main(path: Path) -> None:
    """One of two processes: the cases at a ZeRO stage; what it checked goes into a file."""
    from align.engine import dist

    dist.setup()
    task = json.loads(path.read_text())
    folders = {name: Path(folder) for name, folder in task["folders"].items()}
    checked = []
    for case in ("an answer a forward", "zero3"):
        changes = CASES[case] | {"zero": {"stage": task["stage"]}, "launch": {"processes": 2}}
        recipe = toy.recipe(folders, **changes | {"ppo": changes["ppo"] | {"mini_batch": 6}})
        given, done, optimizers = expected(folders, recipe)
        with toy.opened(recipe) as models:
            check(models, recipe, given, done, optimizers)
        checked.append(case)
    (path.parent / f"rank-{dist.rank()}.json").write_text(json.dumps(checked))
    dist.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
