"""Drawing the next token of many rows at once, by inverse CDF over token ids.

Each row's draw depends on its own logits and its own uniform only. Dims: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.rollout.backend import SamplingConfig


def draw(logits: Tensor, uniform: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-probability.

    Args:
        logits: [B, V] float32.
        uniform: [B] float32 in [0, 1); unread at temperature 0.
        sampling: temperature, then top-k, then top-p.

    Returns:
        tokens: [B] int64.
        logprobs: [B] float32, nats, under the distribution drawn from (temperature 0: that of temperature 1).
    """
    if sampling.temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return best[:, 0], logits.log_softmax(-1).gather(1, best)[:, 0]
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if sampling.top_p < 1 or 0 < sampling.top_k < logits.shape[1]:
        probs = filtered(logits, sampling.top_k, sampling.top_p)
    else:
        probs = logits.softmax(-1)
    cumulated = probs.cumsum(-1)
    whole = cumulated[:, -1:]
    # u of the sum as it was cumulated, and less than it even where rounded: a token of weight 0 never wins
    target = torch.minimum(uniform[:, None] * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    chosen = torch.searchsorted(cumulated, target, right=True)
    return chosen[:, 0], probs.gather(1, chosen).log()[:, 0]


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Probabilities with all but the likeliest tokens at 0, renormalised; equal logits keep token-id order.

    Args:
        logits: [B, V] float32, divided by the temperature.
        top_k: so many tokens stay; 0 keeps all.
        top_p: a token goes where the mass before it, of what top-k left, exceeds this (Meta's chat code).

    Returns:
        [B, V] float32.
    """
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    if 0 < top_k < logits.shape[1]:
        ordered[:, top_k:] = -torch.inf
    probs = ordered.softmax(-1)
    if top_p < 1:
        probs = probs.masked_fill(probs.cumsum(-1) - probs > top_p, 0.0)
        probs = probs / probs.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(1, ids, probs)
