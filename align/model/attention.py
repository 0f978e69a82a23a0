"""Attention itself: the kernel that is fastest where it runs, and the masks of packed rows.

Dims: B rows, T tokens, S keys, H query heads, K key/value heads, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PLAIN = 256  # rows up to so many tokens are trained with attention written out, on a CPU in bf16


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / sqrt(E) + mask) v with shared key/value heads.

    Args:
        q: [B, H, T, E].
        k: [B, K, S, E]; v likewise.
        mask: [B, 1, T, S], added; None: causal, S = T.

    Returns:
        [B, H, T, E].
    """
    B, H, T, E = q.shape
    if T == 1 and mask is not None and q.device.type == "cpu" and not torch.is_grad_enabled():
        # one query a row: two batched products over the queries of each key head beat SDPA on CPU
        grouped = q.reshape(B, k.shape[1], -1, E) * E**-0.5
        weights = (torch.matmul(grouped, k.transpose(2, 3)) + mask).float().softmax(-1)
        return torch.matmul(weights.to(v.dtype), v).view(B, H, 1, E)
    if 1 < T == k.shape[2] <= PLAIN and q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
        return _attend_plainly(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=k.shape[1] != H)


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same, written out: in bf16 on a CPU the fused kernel's backward takes longer on short rows."""
    B, H, T, E = q.shape
    K, S = k.shape[1], k.shape[2]
    if mask is None:
        mask = torch.full((T, S), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)[None, None]
    grouped = (q * E**-0.5).reshape(B, K, H // K * T, E)
    weights = torch.matmul(grouped, k.transpose(2, 3)).view(B, K, H // K, T, S) + mask[:, :, None]
    return torch.matmul(weights.softmax(-1).view(B, K, H // K * T, S), v).view(B, H, T, E)


def packed_mask(segments: Tensor, dtype: torch.dtype, stems: Tensor | None = None) -> Tensor:
    """What each token of a packed row looks at: its document, up to itself, and the stem before it.

    Padding (document 0) looks at padding, so that no row of the mask is empty.

    Args:
        segments: [B, T], document numbers.
        dtype: of the mask.
        stems: [B, T], number of a second document that a token sees (a prompt that several answers share), -1: none.

    Returns:
        [B, 1, T, T]: 0 where a token looks, else -inf.
    """
    T = segments.shape[1]
    seen = segments[:, :, None] == segments[:, None, :]
    if stems is not None:
        seen |= stems[:, :, None] == segments[:, None, :]
    seen &= torch.ones(T, T, dtype=torch.bool, device=segments.device).tril()
    mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~seen, float("-inf"))[:, None]
