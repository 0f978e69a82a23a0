"""Supervised fine-tuning: cross-entropy of the answers, zero on the prompts (paper section 3.1)."""

from __future__ import annotations

from torch import Tensor

from align.losses.logprobs import check_logits, masked_logprobs
from align.losses.masked import check_bool


def sft_loss(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """``-log softmax(logits)[tokens]`` where ``mask``, exactly 0 elsewhere.

    Where the mask is False neither logits nor token is looked at, so pads and label -100 are fine there.

    Args:
        logits: [B, T, V] (or any leading dims), any float dtype; ``logits[:, t]`` predicts ``tokens[:, t]``.
        tokens: [B, T] int64, each in [0, V) where it counts.
        mask: [B, T] bool, True where the token counts.

    Returns:
        [B, T] fp32 (fp64 where ``logits`` is), nats, to be divided by the step's count of counted tokens.

    Raises:
        ShapeError: ``tokens`` or ``mask`` is not ``logits`` without its last dim.
    """
    check_logits("sft_loss", logits, tokens=tokens, mask=mask)
    check_bool("sft_loss", mask=mask)
    logprobs = masked_logprobs(logits, tokens, mask, 1.0)
    return (-logprobs).masked_fill(~mask, 0.0)  # not -0.0
