"""The two losses of proximal policy optimisation, per token."""

from __future__ import annotations

import torch
from torch import Tensor

from align.losses.kl import MAX_LOG_RATIO
from align.losses.masked import full, same_shape


def ppo_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """``-min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A)`` with ``ratio = exp(logprobs - old_logprobs)``.

    PPO (arXiv 1707.06347), equation 7, negated. The log-ratio is clamped to ±20, where the gradient is 0.

    Args:
        logprobs: [B, T] of the sampled tokens under the policy being trained, nats.
        old_logprobs: [B, T] of the same tokens under the policy that sampled them, nats.
        advantages: [B, T], constants.
        clip: 0.2 in the paper.

    Returns:
        [B, T] fp32 (fp64 where the inputs are).

    Raises:
        ShapeError: shapes differ.
        ValueError: clip is negative.
    """
    same_shape("ppo_policy_loss", logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    _check_clip(clip)
    ratio = (full(logprobs) - full(old_logprobs)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    gain = full(advantages)
    return torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """``0.5 max((V - R)², (V' - R)²)`` where ``V'`` is ``V`` kept within ``clip`` of the old value.

    lm-human-preferences, train_policy.py; Huang et al., "The N Implementation Details of RLHF with PPO".

    Args:
        values: [B, T] of the critic being trained.
        old_values: [B, T] of the critic at rollout time.
        returns: [B, T] from :func:`align.losses.gae`, constants.
        clip: 0.2 on the recipe page.

    Returns:
        [B, T] fp32 (fp64 where the inputs are).

    Raises:
        ShapeError: shapes differ.
        ValueError: clip is negative.
    """
    same_shape("ppo_value_loss", values=values, old_values=old_values, returns=returns)
    _check_clip(clip)
    value, old, target = full(values), full(old_values), full(returns)
    clipped = torch.maximum(torch.minimum(value, old + clip), old - clip)
    return 0.5 * torch.maximum((value - target).square(), (clipped - target).square())


def _check_clip(clip: float) -> None:
    if not clip >= 0:
        raise ValueError(f"clip: found {clip}, expected a number of at least 0")
