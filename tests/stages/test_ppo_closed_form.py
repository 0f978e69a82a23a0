"""With known rewards PPO goes where theory says: to pi0 exp(r / beta) / Z (e.g. Rafailov et al. 2023, equation 4).

The stage's own collect, appraise and improve on a real Llama over six tokens; only the reward models are replaced, by
a table. An answer ends with EOS or at its longest, so that answers of one and of two tokens compete.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from align.engine.clock import Clock
from align.model.config import LlamaConfig
from align.records import Prompt
from align.rollout.judge import Scores
from align.stages.ppo.collect import Collector, Questions
from align.stages.ppo.learn import appraise, improve
from align.stages.ppo.models import Models
from tests.stages import ppo_toy as toy

V, EOS = 6, 2
MODEL = LlamaConfig(vocab_size=V, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, ffn_dim=64, max_seq_len=8)
PROMPTS = [[1, 3], [1, 5, 4]]
Answer = tuple[int, ...]


def every_answer(longest: int) -> list[Answer]:
    """All answers there are: those that EOS ends, and those of the longest length."""
    found = []
    for length in range(1, longest + 1):
        for answer in itertools.product(range(V), repeat=length):
            if EOS not in answer[:-1] and (answer[-1] == EOS or length == longest):
                found.append(answer)
    return found


def probabilities(policy: Any, answers: list[Answer], temperature: float) -> list[torch.Tensor]:
    """Of every answer to each prompt, [number of answers] fp64: a product of softmaxes."""
    found = []
    for prompt in PROMPTS:
        logprobs = []
        for answer in answers:
            with torch.no_grad():
                logits = policy(torch.tensor([[*prompt, *answer]]))[0].double() / temperature
            each = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            logprobs.append(sum(float(each[place, token]) for place, token in enumerate(answer)))
        found.append(torch.tensor(logprobs, dtype=torch.float64).exp())
        assert float(found[-1].sum()) == pytest.approx(1.0, abs=1e-5)
    return found


def distances(
    root: Path, beta: float, longest: int, seed: int, iterations: int, temperature: float = 1.0
) -> tuple[float, float]:
    """Total variation to the closed form before and after, the larger of the two prompts'."""
    folders = toy.save_models(root, MODEL, std=0.25)
    rate = {"lr": 3e-3, "weight_decay": 0.0, "clip": 1.0, "schedule": "linear"}
    recipe = toy.recipe(
        folders, seed=seed, micro_tokens=4096, optim=rate, critic_optim=rate,
        ppo={
            "iterations": iterations, "prompts": 2, "samples": 128, "mini_batch": 128, "beta": beta,
            "score_scale": "none", "no_eos_score": None,
        },
        sampling={"max_new_tokens": longest, "temperature": temperature},
    )  # fmt: skip
    answers = every_answer(longest)
    rewards = torch.randn(2, len(answers), generator=torch.Generator().manual_seed(seed))
    place = {answer: number for number, answer in enumerate(answers)}
    row = {tuple(prompt): number for number, prompt in enumerate(PROMPTS)}

    def score(prompts: list[Answer], said: list[Answer], is_safety: list[bool]) -> Scores:
        known = torch.stack([rewards[row[p], place[a]] for p, a in zip(prompts, said, strict=True)])
        return Scores(known, known, known)

    models = Models(recipe)
    models.score = score  # type: ignore[method-assign,assignment]
    questions = Questions([Prompt(id=str(n), messages=()) for n in range(2)], PROMPTS)
    start = probabilities(models.policy, answers, temperature)
    goals = []
    for before, known in zip(start, rewards.double(), strict=True):
        weight = before * (known / beta).exp()
        goals.append(weight / weight.sum())

    def furthest() -> float:
        now = probabilities(models.policy, answers, temperature)
        return max(float((p - goal).abs().sum()) / 2 for p, goal in zip(now, goals, strict=True))

    before = furthest()
    with Collector(recipe, models, questions, EOS, max(map(len, PROMPTS))) as collector:
        for iteration in range(iterations):
            collected = collector.collect(iteration, Clock())
            experience, _, seen = appraise(recipe, models, collected, beta, Clock())
            improve(recipe, models, iteration, experience)
            assert math.isfinite(seen["kl/answer"])
    after = furthest()
    for engine in models.engines.values():
        engine.close()
    return before, after


def test_single_tokens_go_to_the_closed_form(tmp_path: Path) -> None:
    before, after = distances(tmp_path, beta=0.5, longest=1, seed=0, iterations=40, temperature=0.7)
    assert before > 0.2
    assert after < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("longest", [1, 2])
@pytest.mark.parametrize("beta", [0.8, 1.5, 3.0])
def test_ppo_goes_to_the_closed_form(beta: float, longest: int, seed: int, tmp_path: Path) -> None:
    before, after = distances(tmp_path, beta, longest, seed, iterations=100 if longest == 1 else 300)
    assert before > 0.04
    assert after < 0.02
