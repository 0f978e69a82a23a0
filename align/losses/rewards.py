"""From scores to rewards: the piecewise combination, whitening, and the reward of each token."""

from __future__ import annotations

import torch
from torch import Tensor

from align.errors import ShapeError, TrainingError
from align.losses.masked import check_bool, counted, full, same_shape

EPSILON = 1e-8  # added to the variance; openai/lm-human-preferences, utils/core.py whiten


def combine_rewards(helpful: Tensor, safety: Tensor, is_safety_prompt: Tensor, threshold: float) -> Tensor:
    """``safety`` where the prompt is a safety prompt or ``sigmoid(safety) < threshold``, else ``helpful``.

    Llama 2, section 3.2.3: R_c = R_s if is_safety(p) or R_s < 0.15, else R_h. A NaN safety score is passed
    on, never hidden by the other.

    Args:
        helpful: [B] helpfulness score, logits.
        safety: [B] safety score, logits.
        is_safety_prompt: [B] bool.
        threshold: a probability strictly between 0 and 1 (paper: 0.15).

    Returns:
        [B] fp32 (fp64 where the scores are), logits, to be whitened.

    Raises:
        ShapeError: shapes differ.
        ValueError: threshold is not between 0 and 1.
    """
    same_shape("combine_rewards", helpful=helpful, safety=safety, is_safety_prompt=is_safety_prompt)
    check_bool("combine_rewards", is_safety_prompt=is_safety_prompt)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: found {threshold}, expected a probability strictly between 0 and 1")
    safe_enough = torch.sigmoid(safety.double()) >= threshold  # False for NaN
    return torch.where(is_safety_prompt | ~safe_enough, full(safety), full(helpful))


def moments(x: Tensor, mask: Tensor) -> Tensor:
    """Count, sum and sum of squares of the counted values, to be added up over ranks.

    Args:
        x: any shape.
        mask: same shape, bool, True = counts.

    Returns:
        [3] fp64.

    Raises:
        ShapeError: shapes differ.
    """
    same_shape("moments", x=x, mask=mask)
    check_bool("moments", mask=mask)
    values = counted(x.double(), mask)
    return torch.stack([mask.sum().double(), values.sum(), values.square().sum()])


def whiten(x: Tensor, mask: Tensor, over: Tensor | None = None) -> Tensor:
    """``(x - mean) / sqrt(variance + 1e-8)`` over the counted values; 0 elsewhere.

    The variance is the mean squared deviation (divided by n, not n - 1), as in openai/lm-human-preferences.

    Args:
        x: any shape, e.g. [B, T] advantages or [B] rewards.
        mask: same shape, bool, True = counts.
        over: [3] :func:`moments` of the batch that ``x`` is part of (all ranks'); ``x``'s own where None.

    Returns:
        ``x``'s shape, fp32 (fp64 where ``x`` is), mean 0 and variance 1 over the batch.

    Raises:
        ShapeError: shapes differ.
        TrainingError: nothing counts.
    """
    mean, scale = _mean_and_scale("whiten", x, mask, over)
    return counted((counted(x.double(), mask) - mean) * scale, mask).to(full(x).dtype)


def unit_variance(x: Tensor, mask: Tensor, over: Tensor | None = None) -> Tensor:
    """``(x - mean) / sqrt(variance + 1e-8) + mean`` over the counted values; 0 elsewhere: the mean is kept.

    Args:
        x: any shape, e.g. [B] rewards.
        mask: same shape, bool, True = counts.
        over: as in :func:`whiten`.

    Returns:
        ``x``'s shape, fp32 (fp64 where ``x`` is), variance 1 over the batch and the mean it had.

    Raises:
        ShapeError: shapes differ.
        TrainingError: nothing counts.
    """
    mean, scale = _mean_and_scale("unit_variance", x, mask, over)
    return counted((counted(x.double(), mask) - mean) * scale + mean, mask).to(full(x).dtype)


def token_rewards(score: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """``-beta * kl`` on every counted token, plus ``score`` on each row's last counted token; 0 elsewhere.

    Args:
        score: [B] reward of the whole answer.
        kl: [B, T] per-token KL to the reference, nats (:func:`align.losses.kl_k1`).
        mask: [B, T] bool, True on the answer's tokens, wherever the pads are.
        beta: weight of the KL penalty.

    Returns:
        [B, T] fp32 (fp64 where the inputs are).

    Raises:
        ShapeError: ``kl`` and ``mask`` differ, or ``score`` has not one entry a row.
        TrainingError: a row has no counted token to carry its score.
    """
    same_shape("token_rewards", kl=kl, mask=mask)
    check_bool("token_rewards", mask=mask)
    if kl.dim() != 2 or score.shape != kl.shape[:1]:
        raise ShapeError(
            f"token_rewards: found score {list(score.shape)}, kl {list(kl.shape)}; expected [B] and [B, T]"
        )
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise TrainingError(f"token_rewards: no counted token in row {empty[0]} to carry its score")
    place = torch.arange(kl.shape[1], device=kl.device)
    last = torch.where(mask, place, -1).amax(1, keepdim=True)
    return counted(-beta * full(kl), mask) + counted(full(score).unsqueeze(1).expand(kl.shape), place == last)


def _mean_and_scale(function: str, x: Tensor, mask: Tensor, over: Tensor | None) -> tuple[Tensor, Tensor]:
    same_shape(function, x=x, mask=mask)
    check_bool(function, mask=mask)
    if over is not None:
        count, total, squares = over.double()
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0.0)
    else:
        values, count = counted(x.double(), mask), mask.sum()
        mean = values.sum() / count
        variance = counted(values - mean, mask).square().sum() / count
    if not bool(count > 0):
        raise TrainingError(f"{function}: no counted position")
    return mean, torch.rsqrt(variance + EPSILON)
