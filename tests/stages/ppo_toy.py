"""PPO at toy size: random models in folders, a recipe over them, and given rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from align.config import parse
from align.model.config import LlamaConfig
from align.model.llama import init_weights
from align.model.saving import save_policy, save_scorer
from align.stages.ppo import Recipe
from align.stages.ppo.collect import Collected
from align.stages.ppo.models import Models
from tests.fakes import tiny_llama, tiny_scorer

# above 100,000 elements a parameter is really split by ZeRO-3: embedding and head are
MODEL = LlamaConfig(vocab_size=1000, dim=128, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=192, max_seq_len=64)
OPTIM = {"lr": 2e-4, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1, "clip": 0.0, "schedule": "constant"}


def save_models(root: Path, model: LlamaConfig = MODEL, std: float = 0.08) -> dict[str, Path]:
    """A policy and two reward models, all random."""
    folders = {name: root / name for name in ("policy", "helpful", "safety")}
    save_policy(tiny_llama(0, model, std), model, folders["policy"])
    for seed, name in enumerate(("helpful", "safety"), 1):
        scorer = tiny_scorer(seed, model)
        init_weights(scorer, seed, std)
        save_scorer(scorer, model, folders[name])
    return folders


@contextmanager
def opened(recipe: Recipe) -> Iterator[Models]:
    """PPO's models, their engines closed at the end."""
    models = Models(recipe)
    try:
        yield models
    finally:
        for engine in models.engines.values():
            engine.close()


def recipe(folders: dict[str, Path], **changes: Any) -> Recipe:
    """A recipe over the folders; ``changes`` are laid over its sections."""
    values: dict[str, Any] = {
        "stage": "ppo", "seed": 3, "critic": "helpful", "threshold": 0.15, "prompts": "none.jsonl",
        **{name: str(folder) for name, folder in folders.items()},
        "ppo": {
            "iterations": 1, "prompts": 6, "samples": 2, "mini_batch": 5, "beta": 0.1, "clip": 0.2,
            "score_scale": "whiten", "min_length": 0.0,
        },
        "sampling": {"temperature": 1.0, "max_new_tokens": 8},
        "micro_tokens": 64, "optim": OPTIM, "critic_optim": OPTIM, "zero": {"stage": 0, "dtype": "fp32"},
    }  # fmt: skip
    return parse(Recipe, laid_over(values, changes), "ppo.yaml")


def laid_over(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values with the changes; a section that both have is laid over too."""
    both = {key for key in values.keys() & changes.keys() if isinstance(values[key], dict)}
    sections = {key: values[key] | changes[key] for key in both if isinstance(changes[key], dict)}
    return values | changes | sections


def rollouts(
    count: int, vocab: int, seed: int = 0, samples: int = 1
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Random prompts and answers of different lengths, so many answers to a prompt."""
    generator = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> tuple[int, ...]:
        size = int(torch.randint(low, high + 1, (1,), generator=generator))
        return tuple(torch.randint(3, vocab, (size,), generator=generator).tolist())

    prompts = [(1, *some(1, 9)) for _ in range(count // samples)]
    return [prompt for prompt in prompts for _ in range(samples)], [some(1, 8) for _ in range(count)]


def collected(prompts: list[tuple[int, ...]], answers: list[tuple[int, ...]], logprobs: list[list[float]]) -> Collected:
    """The rollouts with log-probs as recorded; every fourth did not end, every third is about safety."""
    from align.rollout.experience import table

    rows = range(len(answers))
    return Collected(
        numbers=list(rows), prompts=prompts, answers=answers, logprobs=table(logprobs),
        finished=torch.tensor([row % 4 != 3 for row in rows]), is_safety=[row % 3 == 0 for row in rows],
    )  # fmt: skip
