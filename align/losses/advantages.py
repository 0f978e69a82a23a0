"""Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16)."""

from __future__ import annotations

import torch
from torch import Tensor

from align.errors import ShapeError
from align.losses.masked import check_bool, counted, full, same_shape


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """``A_t = delta_t + gamma lam A_{t+1}``, ``delta_t = r_t + gamma V_{t+1} - V_t``; returns are ``A + V``.

    The counted tokens of a row are one episode, in order and as if nothing stood between them: left pads,
    right pads and gaps change nothing. It ends with its last counted token, after which the value is 0.

    Args:
        rewards: [B, T].
        values: [B, T], ``values[:, t]`` is the critic's estimate before token t is chosen.
        mask: [B, T] bool, True on the answer's tokens.
        gamma: discount, 1 in RLHF.
        lam: 0 is one-step temporal difference, 1 is Monte Carlo.

    Returns:
        advantages and returns, each [B, T] fp32 (fp64 where the inputs are), 0 where not counted. They carry
        gradient to ``values`` where those require it: PPO calls this without gradient.

    Raises:
        ShapeError: shapes differ or are not [B, T].
    """
    same_shape("gae", rewards=rewards, values=values, mask=mask)
    check_bool("gae", mask=mask)
    if rewards.dim() != 2:
        raise ShapeError(f"gae: found rewards {list(rewards.shape)}; expected [B, T]")
    reward, value = counted(full(rewards), mask), counted(full(values), mask)
    next_value = next_advantage = torch.zeros_like((reward + value).sum(1))
    backwards = []
    for r, v, m in zip(reward.unbind(1)[::-1], value.unbind(1)[::-1], mask.unbind(1)[::-1], strict=True):
        advantage = r + gamma * next_value - v + gamma * lam * next_advantage
        backwards.append(counted(advantage, m))
        next_advantage = torch.where(m, advantage, next_advantage)
        next_value = torch.where(m, v, next_value)
    advantages = torch.stack(backwards[::-1], dim=1) if backwards else reward + value
    return advantages, advantages + value
