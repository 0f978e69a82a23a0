"""Where a policy looks: how much attention each token of a dialogue pays to chosen tokens before it, at most.

The forward pass never holds attention weights; here they are worked out again, plainly, from what each layer's
attention was given, some queries at a time, and only their largest is kept.

Dims: T tokens, L layers, H query heads, K key/value heads, E head width, R queries at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from align.errors import ShapeError
from align.model.attention import rope_table, rotate
from align.model.llama import Attention, Llama

QUERIES = 128  # at a time: H × 128 × T weights are held at once


@torch.no_grad()
def largest_attention(model: Llama, tokens: Tensor, chosen: Tensor, queries: int = QUERIES) -> Tensor:
    """The largest attention weight of each token to any chosen one, over the heads of each layer.

    ``out[l, t] = max over heads h and chosen tokens s <= t of softmax_s(q_t · k_s / sqrt(E))``, 0 before the first
    chosen token. A weight is a probability: those of one head and token sum to 1 over all tokens up to it.

    Args:
        model: a policy.
        tokens: [T] int64, one document.
        chosen: [T] bool, the tokens looked at.
        queries: worked out at once; changes the memory and nothing else.

    Returns:
        [L, T] fp32, in [0, 1].

    Raises:
        ShapeError: ``chosen`` is not shaped like ``tokens``, or nothing is chosen.
    """
    if tokens.dim() != 1 or chosen.shape != tokens.shape:
        raise ShapeError(f"expected tokens [T] and chosen [T], found {list(tokens.shape)} and {list(chosen.shape)}")
    if not bool(chosen.any()):
        raise ShapeError("chosen: found no token, expected at least one")
    found = torch.zeros(model.config.n_layers, len(tokens), device=tokens.device)

    def look(module: nn.Module, given: tuple[Tensor, object]) -> None:
        assert isinstance(module, Attention)
        q, k = _rotated(module, given[0], model.config.rope_theta)
        for start in range(0, len(tokens), queries):
            stop = min(start + queries, len(tokens))
            found[module.layer, start:stop] = _largest(q[start:stop], k[:stop], chosen[:stop])

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, Attention)]
    try:
        model.model(tokens[None])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rotated(attention: Attention, x: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Queries [T, H, E] and keys [T, K, E], fp32, from what the layer's attention was given, [1, T, D]."""
    T = x.shape[1]
    q, k = (project(x).view(1, T, -1, attention.head_dim) for project in (attention.q_proj, attention.k_proj))
    cos, sin = (table[None, :, None] for table in rope_table(attention.head_dim, theta, T, x.device))
    return rotate(q, cos, sin)[0].float(), rotate(k, cos, sin)[0].float()


def _largest(q: Tensor, k: Tensor, chosen: Tensor) -> Tensor:
    """[R], of the last R tokens: q [R, H, E], k [S, K, E], chosen [S]."""
    (R, H, E), (S, K) = q.shape, k.shape[:2]
    logits = torch.einsum("rkge,ske->kgrs", q.view(R, K, H // K, E), k) / E**0.5
    ahead = torch.ones(R, S, dtype=torch.bool, device=q.device).triu_(S - R + 1)
    logits = logits.masked_fill_(ahead, float("-inf"))
    whole = logits.logsumexp(-1)  # [K, H/K, R]
    best = logits.masked_fill_(~chosen, float("-inf")).amax(-1)
    largest: Tensor = (best - whole).exp().amax((0, 1))
    return largest
