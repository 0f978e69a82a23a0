"""Attention itself: the kernel that is fastest where it runs, and the masks of packed rows.

Dims: B rows, T tokens, S keys, H query heads, K key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from align.model import fused
from align.model.documents import Group, mask

# On a CPU, documents up to so many tokens hold their attention weights: two products and a softmax between them are
# then faster than the kernel that never holds them, in bf16 several times.
SHORT = {torch.float32: 256, torch.bfloat16: 1024}


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
    if 1 < T == k.shape[2] <= 256 and q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
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


def attend_documents(q: Tensor, k: Tensor, v: Tensor, turns: fused.Turns, groups: Sequence[Group]) -> Tensor:
    """Rotary attention on a CPU, each document by itself: see :func:`align.model.fused.attention`."""
    longest = SHORT[q.dtype]
    short = [group for group in groups if group.index.shape[1] <= longest]
    out = fused.attention(q, k, v, turns, short)
    for group in groups[: len(groups) - len(short)]:  # the longest come first
        at = group.index.clamp(min=0)
        cos, sin = (table[turns.positions[at]].unsqueeze(2) for table in (turns.cos, turns.sin))
        gathered = (rotate(q[at], cos, sin), rotate(k[at], cos, sin), v[at])
        queries, keys, values = (x.transpose(1, 2) for x in gathered)
        seen = mask(group, q.dtype)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, is_causal=seen is None, enable_gqa=q.shape[1] != k.shape[1]
        )
        real = group.index >= 0
        out = out.index_put((group.index[real],), mixed.transpose(1, 2)[real])
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in fp32, Hugging Face's layout: component i is paired with i + E/2.

    Args:
        x: [B, T, heads, E].
        cos: [B or 1, T, 1, E/2] fp32; sin likewise.
    """
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


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
