"""Per-token estimates of KL(policy || reference) from the log-probs of tokens that the policy sampled.

John Schulman, "Approximating KL divergence" (2020). k1 is what is trained, k3 is logged beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.losses.masked import full, same_shape

MAX_KL_ERROR = 0.2  # Ziegler et al. 2019, section 2.2
MAX_LOG_RATIO = 20.0  # exp of more is no number to train on; recipe page, section 7


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """``logprobs - ref_logprobs``: unbiased, negative for some tokens.

    Args:
        logprobs: [B, T] of the sampled tokens under the policy, nats.
        ref_logprobs: [B, T] of the same tokens under the reference, nats.

    Returns:
        [B, T] fp32 (fp64 where the inputs are), nats.

    Raises:
        ShapeError: shapes differ.
    """
    same_shape("kl_k1", logprobs=logprobs, ref_logprobs=ref_logprobs)
    return full(logprobs) - full(ref_logprobs)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """``exp(d) - 1 - d`` with ``d = ref_logprobs - logprobs``: unbiased, never negative, of lower variance.

    ``d`` is clamped to ±20, where the gradient becomes 0.

    Args:
        logprobs: [B, T] of the sampled tokens under the policy, nats.
        ref_logprobs: [B, T] of the same tokens under the reference, nats.

    Returns:
        [B, T] fp32 (fp64 where the inputs are), nats.

    Raises:
        ShapeError: shapes differ.
    """
    same_shape("kl_k3", logprobs=logprobs, ref_logprobs=ref_logprobs)
    # near 0 the result is d²/2 while the terms are d: fp32 would lose all of it, fp64 does not
    d = (ref_logprobs.double() - logprobs.double()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (torch.expm1(d) - d).to(torch.promote_types(full(logprobs).dtype, full(ref_logprobs).dtype))


def adapted_beta(beta: float, kl: float, target: float, horizon: float, answers: int) -> float:
    """``beta (1 + clip(kl / target - 1, -0.2, 0.2) answers / horizon)``: a KL above the target raises its weight.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2, as lm-human-preferences writes it (train_policy.py,
    AdaptiveKLController).

    Args:
        beta: weight of the KL penalty so far.
        kl: of the last iteration, nats an answer.
        target: nats an answer.
        horizon: answers after which a KL far off has changed beta by a fifth.
        answers: of the last iteration.
    """
    error = min(max(kl / target - 1.0, -MAX_KL_ERROR), MAX_KL_ERROR)
    return beta * (1.0 + error * answers / horizon)
