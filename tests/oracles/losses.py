"""The losses as their papers write them: Python floats and loops, no torch, one number at a time.

Every function takes and returns plain numbers or lists. None of it is stable for extreme input: that is the
library's business, tested by hand-worked limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    exps = [math.exp(x / temperature) for x in logits]
    return [e / sum(exps) for e in exps]


def token_logprob(logits: Sequence[float], token: int, temperature: float = 1.0) -> float:
    return math.log(softmax(logits, temperature)[token])


def entropy(logits: Sequence[float], temperature: float = 1.0) -> float:
    """Shannon 1948: H = -sum p log p."""
    return -sum(p * math.log(p) for p in softmax(logits, temperature))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def ranking_loss(chosen: float, rejected: float, margin: float) -> float:
    """Llama 2 (arXiv 2307.09288), equation 2."""
    return -math.log(sigmoid(chosen - rejected - margin))


def kwise_ranking_loss(scores: Sequence[float], ranks: Sequence[int]) -> float:
    """InstructGPT (arXiv 2203.02155), equation 1; ties dropped."""
    K = len(scores)
    total = 0.0
    for winner in range(K):
        for loser in range(K):
            if ranks[winner] < ranks[loser]:
                total += math.log(sigmoid(scores[winner] - scores[loser]))
    return -total / math.comb(K, 2)


def safety_loss(score: float, is_safe: bool) -> float:
    """Bernoulli negative log-likelihood."""
    return -math.log(sigmoid(score) if is_safe else 1 - sigmoid(score))


def kl_k3(logprob: float, ref_logprob: float) -> float:
    """Schulman 2020, "Approximating KL divergence": (r - 1) - log r, r = p_ref / p."""
    r = math.exp(ref_logprob) / math.exp(logprob)
    return (r - 1) - math.log(r)


def combine_reward(helpful: float, safety: float, is_safety_prompt: bool, threshold: float) -> float:
    """Llama 2, section 3.2.3: R_c."""
    if is_safety_prompt or sigmoid(safety) < threshold:
        return safety
    return helpful


def whiten(values: Sequence[float], shift_mean: bool) -> list[float]:
    """openai/lm-human-preferences, lm_human_preferences/utils/core.py: whiten(values, shift_mean)."""
    mean = sum(values) / len(values)
    var = sum((v - mean) ** 2 for v in values) / len(values)
    whitened = [(v - mean) / math.sqrt(var + 1e-8) for v in values]
    return whitened if shift_mean else [w + mean for w in whitened]


def token_rewards(score: float, kl: Sequence[float], beta: float) -> list[float]:
    """Ziegler et al. 2019 (arXiv 1909.08593), equation 2, spread over the tokens."""
    rewards = [-beta * k for k in kl]
    rewards[-1] += score
    return rewards


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> tuple[list[float], list[float]]:
    """arXiv 1506.02438, equation 16, as the sum it is: A_t = sum_l (gamma lam)^l delta_{t+l}."""
    T = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < T else 0.0) - values[t] for t in range(T)]
    advantages = [sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, T)) for t in range(T)]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def ppo_policy_loss(logprob: float, old_logprob: float, advantage: float, clip: float) -> float:
    """arXiv 1707.06347, equation 7, negated; the cases of Spinning Up's simplified form, g(eps, A)."""
    ratio = math.exp(logprob) / math.exp(old_logprob)
    bound = (1 + clip) * advantage if advantage >= 0 else (1 - clip) * advantage
    return -min(ratio * advantage, bound)


def ppo_value_loss(value: float, old_value: float, target: float, clip: float) -> float:
    """openai/lm-human-preferences, train_policy.py: .5 * max((v - R)^2, (vclipped - R)^2)."""
    clipped = value
    if value > old_value + clip:
        clipped = old_value + clip
    if value < old_value - clip:
        clipped = old_value - clip
    return 0.5 * max((value - target) ** 2, (clipped - target) ** 2)
