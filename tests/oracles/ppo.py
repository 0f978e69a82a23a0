"""One PPO iteration, slowly: transformers' models, one answer at a time, unpadded; loops; AdamW written out.

Sources: Llama 2 (arXiv 2307.09288), section 3.2.3, for the reward and the objective; openai/lm-human-preferences for
whitening and the clipped value loss; arXiv 1506.02438 for advantages; arXiv 1707.06347 for the clipped policy loss;
arXiv 1711.05101, algorithm 2, for AdamW. Scalar formulas are those of ``losses.py`` beside this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.oracles import losses as slow


@dataclass(frozen=True)
class Settings:
    """Every number of an iteration."""

    scale: str
    samples: int = 1
    score_clip: float | None = None
    no_eos: float | None = -1.0
    threshold: float = 0.15
    temperature: float = 1.0
    beta: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    entropy_weight: float = 0.0
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    decay: float = 0.1
    max_norm: float = 0.0  # 0: gradients are not clipped


@dataclass
class Done:
    """What an iteration did."""

    rewards: list[list[float]]
    advantages: list[list[float]]
    returns: list[list[float]]
    policy_losses: list[float] = field(default_factory=list)  # one an update
    value_losses: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    clipped: list[float] = field(default_factory=list)
    policy_norms: list[float] = field(default_factory=list)  # before clipping
    critic_norms: list[float] = field(default_factory=list)


class AdamW:
    """Algorithm 2 of arXiv 1711.05101, at a constant rate; matrices decay, vectors do not."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.settings, self.count = settings, 0
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.m = {name: torch.zeros_like(p) for name, p in self.named.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.named.items()}

    @torch.no_grad()
    def step(self) -> float:
        """One update from the parameters' gradients; their norm before clipping."""
        s, (b1, b2) = self.settings, self.settings.betas
        self.count += 1
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in self.named.values()))
        shrink = min(1.0, s.max_norm / norm) if s.max_norm else 1.0
        for name, p in self.named.items():
            gradient = p.grad * shrink
            self.m[name] = b1 * self.m[name] + (1 - b1) * gradient
            self.v[name] = b2 * self.v[name] + (1 - b2) * gradient**2
            unbiased_m = self.m[name] / (1 - b1**self.count)
            unbiased_v = self.v[name] / (1 - b2**self.count)
            decay = s.decay if p.dim() > 1 else 0.0
            p.copy_(p - s.lr * (unbiased_m / (unbiased_v.sqrt() + s.eps) + decay * p))
            p.grad = None
        return norm


def open_policy(folder: Path) -> Any:
    """Transformers' model of a policy folder."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def open_scorer(folder: Path) -> Any:
    """Transformers' model of a reward model's folder."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def answer_logits(policy: Any, prompt: Sequence[int], answer: Sequence[int], temperature: float) -> Tensor:
    """[A, V]: the logits that each token of the answer was drawn from, over the temperature."""
    logits = policy(torch.tensor([[*prompt, *answer]])).logits[0]
    return logits[len(prompt) - 1 : len(prompt) + len(answer) - 1] / temperature


def answer_logprobs(policy: Any, prompt: Sequence[int], answer: Sequence[int], temperature: float) -> Tensor:
    """[A] nats."""
    logprobs = answer_logits(policy, prompt, answer, temperature).log_softmax(-1)
    return torch.stack([logprobs[place, token] for place, token in enumerate(answer)])


def answer_values(critic: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """[A]: what the critic expects before each token of the answer is chosen."""
    hidden = critic.model(torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
    return (hidden @ critic.score.weight[0])[len(prompt) - 1 : len(prompt) + len(answer) - 1]


def last_score(scorer: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """The reward model's logit at the last token."""
    hidden = scorer.model(torch.tensor([[*prompt, *answer]])).last_hidden_state[0, -1]
    return float(hidden @ scorer.score.weight[0])


def scaled(scores: list[float], safety: list[bool], finished: list[bool], s: Settings) -> list[float]:
    """Scores made comparable, clipped, and replaced where the answer did not end."""
    if s.scale == "whiten_by_prompt":
        beside = []
        for row, score in enumerate(scores):
            first = row - row % s.samples
            others = [scores[i] for i in range(first, first + s.samples) if i != row]
            beside.append(score - sum(others) / len(others))
        scores = slow.whiten(beside, shift_mean=True)
    elif s.scale == "whiten_by_kind":
        found = dict[int, float]()
        for kind in (True, False):
            rows = [row for row, is_safety in enumerate(safety) if is_safety is kind]
            found |= dict(zip(rows, slow.whiten([scores[row] for row in rows], shift_mean=True), strict=True))
        scores = [found[row] for row in range(len(scores))]
    elif s.scale in ("whiten", "unit_variance"):
        scores = slow.whiten(scores, shift_mean=s.scale == "whiten")
    if s.score_clip is not None:
        scores = [max(-s.score_clip, min(s.score_clip, score)) for score in scores]
    return [score if ended or s.no_eos is None else s.no_eos for score, ended in zip(scores, finished, strict=True)]


def iteration(
    folders: dict[str, Path],
    policy: Any,
    critic: Any,
    prompts: list[list[int]],
    answers: list[list[int]],
    old_logprobs: list[list[float]],
    finished: list[bool],
    safety: list[bool],
    mini_batches: list[list[int]],
    s: Settings,
) -> tuple[Done, AdamW, AdamW]:
    """Rewards, advantages and one update a mini-batch; ``policy`` and ``critic`` are changed."""
    rows = range(len(answers))
    with torch.no_grad():
        reference = open_policy(folders["policy"])
        ref = [answer_logprobs(reference, prompts[r], answers[r], s.temperature).tolist() for r in rows]
        judges = {name: open_scorer(folders[name]) for name in ("helpful", "safety")}
        both = [[last_score(judges[name], prompts[r], answers[r]) for r in rows] for name in ("helpful", "safety")]
        values = [answer_values(critic, prompts[r], answers[r]).tolist() for r in rows]
    combined = [slow.combine_reward(both[0][r], both[1][r], safety[r], s.threshold) for r in rows]
    scores = scaled(combined, safety, finished, s)
    rewards, advantages, returns = [], [], []
    for r in rows:
        kl = [now - before for now, before in zip(old_logprobs[r], ref[r], strict=True)]
        rewards.append(slow.token_rewards(scores[r], kl, s.beta))
        gain, goal = slow.gae(rewards[r], values[r], s.gamma, s.lam)
        advantages.append(gain)
        returns.append(goal)
    flat = iter(slow.whiten([gain for row in advantages for gain in row], shift_mean=True))
    advantages = [[next(flat) for _ in row] for row in advantages]

    done = Done(rewards, advantages, returns)
    acts, judges_by = AdamW(policy, s), AdamW(critic, s)
    for batch in mini_batches:
        tokens = sum(len(answers[r]) for r in batch)
        surrogate = value_loss = entropy = clipped = torch.zeros(())
        for r in batch:
            logprobs_of = answer_logits(policy, prompts[r], answers[r], s.temperature).log_softmax(-1)
            value_of = answer_values(critic, prompts[r], answers[r])
            for t, token in enumerate(answers[r]):
                ratio = (logprobs_of[t, token] - old_logprobs[r][t]).exp()
                gain = advantages[r][t]
                inside = ratio.clamp(1 - s.clip, 1 + s.clip)
                surrogate = surrogate - torch.minimum(ratio * gain, inside * gain) / tokens
                clipped = clipped + (ratio.detach() != inside.detach()).float() / tokens
                entropy = entropy - (logprobs_of[t].exp() * logprobs_of[t]).sum() / tokens
                kept = values[r][t] + (value_of[t] - values[r][t]).clamp(-s.value_clip, s.value_clip)
                errors = torch.stack([(value_of[t] - returns[r][t]) ** 2, (kept - returns[r][t]) ** 2])
                value_loss = value_loss + 0.5 * errors.max() / tokens
        (surrogate - s.entropy_weight * entropy).backward()
        (s.value_weight * value_loss).backward()
        done.policy_losses.append(float(surrogate.detach()))
        done.value_losses.append(float(value_loss.detach()))
        done.entropies.append(float(entropy.detach()))
        done.clipped.append(float(clipped))
        done.policy_norms.append(acts.step())
        done.critic_norms.append(judges_by.step())
    return done, acts, judges_by
