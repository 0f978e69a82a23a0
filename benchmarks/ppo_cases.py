"""What bench_ppo.py works on: policies whose answers' lengths are known, reward models, prompts.

The weights are random but for one thing: a token carries a number, how many tokens of its answer are still to come, and
whatever follows it carries one less; after 1 comes the end. A prompt's last token therefore says how long its answer
will be, whoever samples it and however, while which of the many tokens with the right number is drawn is left to
chance. So both sides do the same work to the token, and answers are as long as answers are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from training_cases import CHOSEN, PROMPT

from align.model.config import Dtype, LlamaConfig, preset
from align.model.heads import Scorer, scorer_from_policy
from align.model.llama import Llama, init_weights
from align.model.saving import save_scorer
from align.model.weights import save_policy

PAD, BOS, END = 0, 1, 2
STRENGTH, SURE = 4.0, 30.0  # of the number in an embedding; logits between what may follow and what may not
QUIET = 0.1  # of what layers add to it: random ones of a large width would drown it


@dataclass(frozen=True)
class Case:
    """A policy, and an iteration's answers."""

    preset: str
    prompts: int
    samples: int
    mini_batch: int
    new: int  # tokens of an answer at most
    goal: float
    share: int = 2  # human lengths (training_cases.py) are divided by it: two cores, half an hour
    longest: int = 128  # tokens of a prompt

    @property
    def config(self) -> LlamaConfig:
        """Of policy, critic and reward model."""
        return preset(self.preset)

    @property
    def answers(self) -> int:
        """Of an iteration, episodes in TRL's words."""
        return self.prompts * self.samples

    @property
    def steps(self) -> int:
        """Gradient steps of an iteration."""
        return self.answers // self.mini_batch


CASES = {
    "warm": Case("tiny-1m", prompts=2, samples=2, mini_batch=2, new=4, goal=0.0),
    "small": Case("small-8m", prompts=16, samples=4, mini_batch=16, new=64, goal=4.0),
    "base": Case("base-110m", prompts=8, samples=4, mini_batch=16, new=64, goal=3.0),
}


def lengths(deciles: tuple[int, ...], count: int, most: int, share: int, rng: random.Random) -> list[int]:
    """So many lengths that stand for a distribution, shuffled."""
    found = np.interp((np.arange(count) + 0.5) / count, np.linspace(0, 1, len(deciles)), deciles) / share
    sizes = [int(min(max(size, 2), most)) for size in found]
    rng.shuffle(sizes)
    return sizes


def prompts_of(case: Case) -> list[tuple[int, ...]]:
    """Random tokens; the last one says how long the answer will be, one more than the limit: it does not end."""
    rng, words = random.Random(0), case.config.vocab_size
    found = []
    answers = lengths(CHOSEN, case.prompts, case.new + 1, case.share, rng)
    for size, answer in zip(lengths(PROMPT, case.prompts, case.longest, case.share, rng), answers, strict=True):
        last = [token for token in range(END + 1, words) if number_of(token, case.new) == answer]
        middle = (rng.randrange(END + 1, words) for _ in range(size - 1))
        found.append((BOS, *middle, rng.choice(last)))
    return found


def tokens_of(case: Case) -> int:
    """Answers' tokens of an iteration, which both sides must count."""
    return case.samples * sum(min(number_of(prompt[-1], case.new), case.new) for prompt in prompts_of(case))


def number_of(token: int, new: int) -> int:
    """How many tokens of the answer are still to come, 1 to ``new`` + 1."""
    return 1 + (token - END - 1) % (new + 1)


@torch.no_grad()
def policy_of(case: Case) -> Llama:
    """Random weights, and the numbers: one component of the width for each."""
    config = case.config
    model = Llama(config)
    init_weights(model, seed=0)
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    raised = SURE / config.dim**0.5  # a lone component of a normed vector is sqrt(D)
    tokens = torch.arange(END + 1, config.vocab_size)
    numbers = torch.tensor([number_of(token, case.new) for token in tokens.tolist()])
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(QUIET)
        layer.mlp.down_proj.weight.mul_(QUIET)
    embedding[tokens, numbers] += STRENGTH
    within = numbers <= case.new
    head[tokens[within], numbers[within] + 1] += raised
    head[END, 1] += raised
    return model


def make(case: Case, folder: Path, dtype: Dtype | None = None) -> None:
    """Policy, reward model and critic (the reward model's body, its head 0) as Hugging Face folders."""
    save_policy(policy_of(case), case.config, folder / "policy", dtype=dtype)
    body = Llama(case.config)
    init_weights(body, seed=1)
    scorer: Scorer = scorer_from_policy(body, seed=1)
    save_scorer(scorer, case.config, folder / "reward", dtype=dtype)
    scorer.score.weight.data.zero_()
    save_scorer(scorer, case.config, folder / "critic", dtype=dtype)
