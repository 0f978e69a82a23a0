"""One iteration of ours, phase by phase as the stage runs it, with DeepSpeed or with a plain loop in its place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from ppo_cases import END, Case, prompts_of
from torch import Tensor, nn

OPTIM = {"lr": 1e-6, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.0, "clip": 0.0, "schedule": "constant"}
BETA, CLIP, VALUE_CLIP, VALUE_WEIGHT, GAMMA, LAM = 0.05, 0.2, 0.2, 0.1, 1.0, 0.95


class Plain:
    """What ``engine.zero.Engine`` is to the stage, without DeepSpeed: a module and torch's AdamW, fp32."""

    def __init__(self, module: nn.Module, optim: Any, zero: Any, total_steps: int) -> None:
        from align.engine.optim import param_groups

        self.module, self.zero, self.plain, self.dtype = module, zero, True, "fp32"
        self.steps, self.lr, self.grad_norm = 0, optim.lr, 0.0
        self.device = torch.device("cpu")
        groups = param_groups(module, optim.weight_decay)
        self.adam = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        parameters = [parameter for group in self.adam.param_groups for parameter in group["params"]]
        self.grad_norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        self.adam.step()
        self.adam.zero_grad()
        self.steps += 1


def iterate(
    case: Case, folder: Path, dtype: str, zero: str, shuffle: str, micro_tokens: int = 4096, iterations: int = 1
) -> dict[str, Any]:
    """An iteration from loaded models to new weights; the last, where there are several.

    Args:
        case: sizes.
        folder: of the models.
        dtype: fp32 or bf16.
        zero: ``zero-0``, ``zero-2``, ``zero-3``, or ``plain``.
        shuffle: ``prompts`` or ``answers``.
        micro_tokens: of a forward pass.
        iterations: done one after another.
    """
    from align.allocator import keep_freed_memory
    from align.config import parse
    from align.engine import zero as engines
    from align.engine.clock import Clock
    from align.records import Message, Prompt
    from align.stages.ppo import Recipe
    from align.stages.ppo.bounds import broken
    from align.stages.ppo.collect import Collector, Questions
    from align.stages.ppo.learn import appraise, improve
    from align.stages.ppo.models import Models

    keep_freed_memory()  # as `align run` does
    if zero == "plain":
        engines.wrap = Plain  # type: ignore[assignment]
    recipe = parse(Recipe, {
        "stage": "ppo", "policy": str(folder / "policy"), "helpful": str(folder / "reward"),
        "safety": str(folder / "reward"), "critic": "helpful", "threshold": 0.15, "prompts": "-",
        "ppo": {
            "iterations": iterations, "prompts": case.prompts, "samples": case.samples, "mini_batch": case.mini_batch,
            "beta": BETA, "clip": CLIP, "value_clip": VALUE_CLIP, "value_weight": VALUE_WEIGHT, "gamma": GAMMA,
            "lam": LAM, "shuffle": shuffle, "score_scale": "none", "no_eos_score": None, "min_length": 0.0,
        },
        "sampling": {"temperature": 1.0, "max_new_tokens": case.new}, "micro_tokens": micro_tokens, "optim": OPTIM,
        "critic_optim": OPTIM,
        "zero": {"stage": 0 if zero == "plain" else int(zero.removeprefix("zero-")), "dtype": dtype},
    }, "bench_ppo.py")  # fmt: skip
    tokens = prompts_of(case)
    prompts = [Prompt(id=str(number), messages=(Message("user", "-"),)) for number in range(len(tokens))]
    questions = Questions(prompts, [list(prompt) for prompt in tokens])
    models = Models(recipe)
    with Collector(recipe, models, questions, END, questions.longest) as collector:
        for iteration in range(iterations):
            clock, began, spent = Clock(), time.perf_counter(), time.process_time()
            collected = collector.collect(iteration, clock)
            experience, scores, seen = appraise(recipe, models, collected, recipe.ppo.beta, clock)
            assert not broken(recipe, seen), broken(recipe, seen)
            seen |= clock.time("update", improve, recipe, models, iteration, experience)
            seconds, spent = time.perf_counter() - began, time.process_time() - spent
    return {
        "seconds": seconds,
        "cpu_seconds": spent,
        "phases": {"sample": clock.seconds["sync"] + clock.seconds["rollout"]} | {
            name: clock.seconds[name] for name in ("score", "reference", "value", "update")
        },
        "answers": len(collected.answers),
        "tokens": sum(map(len, collected.answers)),
        "steps": models.policy.steps,
        "score": seen["reward/combined"],
        "score_sd": float(scores.combined.std()),
        "kl": seen["kl/answer"],
        "value_loss": seen["update/value_loss"],
    }  # fmt: skip
