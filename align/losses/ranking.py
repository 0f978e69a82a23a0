"""Reward-model losses: pairs with a margin, K-wise rankings, and the safety classification beside them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from align.errors import ShapeError
from align.losses.masked import check_bool, counted, full, same_shape


def ranking_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """``-log sigmoid(chosen - rejected - margin)`` (Llama 2, section 3.2.2, equation 2).

    Args:
        chosen: [B] score of the preferred answer, logits.
        rejected: [B] score of the other answer, logits.
        margin: [B] how far apart the scores should be, by rating, logits; zeros for the plain loss.

    Returns:
        [B] fp32 (fp64 where the scores are), nats.

    Raises:
        ShapeError: shapes differ.
    """
    same_shape("ranking_loss", chosen=chosen, rejected=rejected, margin=margin)
    return -F.logsigmoid(full(chosen) - full(rejected) - full(margin))


def kwise_ranking_loss(scores: Tensor, rank: Tensor) -> Tensor:
    """``-1/C(K,2) * sum log sigmoid(score_w - score_l)`` over the pairs where w ranks before l.

    InstructGPT (arXiv 2203.02155), equation 1: all pairs of a prompt are one batch element. A tied pair adds
    nothing and the divisor stays C(K,2), so every comparison weighs the same whatever else was tied.

    Args:
        scores: [B, K] scores of K answers to one prompt, logits.
        rank: [B, K] integers, 1 = best; equal ranks are ties.

    Returns:
        [B] fp32 (fp64 where the scores are), nats.

    Raises:
        ShapeError: shapes differ, are not [B, K], or K is below 2.
    """
    same_shape("kwise_ranking_loss", scores=scores, rank=rank)
    if scores.dim() != 2 or scores.shape[1] < 2:
        raise ShapeError(f"kwise_ranking_loss: found scores {list(scores.shape)}; expected [B, K] with K at least 2")
    K = scores.shape[1]
    before = rank.unsqueeze(2) < rank.unsqueeze(1)  # [B, winner, loser]
    values = full(scores)
    gap = values.unsqueeze(2) - values.unsqueeze(1)
    return -counted(F.logsigmoid(gap), before).sum((1, 2)) / (K * (K - 1) / 2)


def safety_loss(scores: Tensor, is_safe: Tensor) -> Tensor:
    """``-log sigmoid(score)`` for a safe answer, ``-log sigmoid(-score)`` for an unsafe one.

    The paper names a safety auxiliary loss (section 3.2.2) and states no formula; this is ours: binary
    cross-entropy through the same score, so that sigmoid(score) reads as the probability of being safe.

    Args:
        scores: [B] logits.
        is_safe: [B] bool.

    Returns:
        [B] fp32 (fp64 where the scores are), nats.

    Raises:
        ShapeError: shapes differ.
    """
    same_shape("safety_loss", scores=scores, is_safe=is_safe)
    check_bool("safety_loss", is_safe=is_safe)
    values = full(scores)
    return F.binary_cross_entropy_with_logits(values, is_safe.to(values.dtype), reduction="none")
