"""Attention itself: the kernel that is fastest where it runs, and the masks of packed rows.

Dims: B rows, T tokens, S keys, H query heads, K key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from align.model import fused
from align.model.config import LONG, PIECE
from align.model.documents import Group
from align.model.documents import mask as group_mask
from align.model.first_calls import settle_first_calls

settle_first_calls()  # every process that trains or samples comes by here

# On a CPU, documents up to so many tokens hold their attention weights: two products and a softmax between them are
# then faster than the kernel that never holds them, in bf16 several times.
SHORT = {torch.float32: 256, torch.bfloat16: 1024}
PLAIN = 256  # where there are no kernels of ours, rows up to so many tokens are trained with attention written out
MASKED = 4096  # on an accelerator, trees in rows up to so many tokens get one [T, T] mask: one kernel, not one a piece


@dataclass(frozen=True, slots=True)
class Pieces:
    """Packed rows cut where nothing looks back across; each piece attends to itself."""

    sizes: list[int]  # tokens of each, in the order of the rows put one after another
    masks: list[Tensor | None]  # [1, 1, size, size] of a piece, added; None: it is one document, causal


@dataclass(frozen=True, slots=True)
class Lengths:
    """Packed rows for a kernel that knows of variable lengths."""

    starts: Tensor  # [documents + 1] int32, where each begins in the rows put one after another, and their end
    longest: int


Mask: TypeAlias = Tensor | Pieces | Lengths | None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """softmax(q kᵀ / sqrt(E) + mask) v with shared key/value heads.

    Args:
        q: [B, H, T, E].
        k: [B, K, S, E]; v likewise.
        mask: [B, 1, T, S], added; None: causal, S = T; or a packed row's documents, S = T.

    Returns:
        [B, H, T, E].
    """
    if isinstance(mask, Pieces):
        return _attend_pieces(q, k, v, mask)
    if isinstance(mask, Lengths):
        return _attend_lengths(q, k, v, mask)
    B, H, T, E = q.shape
    if T == 1 and mask is not None and not torch.is_grad_enabled():
        # one query a row: two batched products over the queries of each key head. On a CPU they beat SDPA, which on a
        # GPU would need shared heads copied
        grouped = q.reshape(B, k.shape[1], -1, E) * E**-0.5
        weights = (torch.matmul(grouped, k.transpose(2, 3)) + mask).float().softmax(-1)
        return torch.matmul(weights.to(v.dtype), v).view(B, H, 1, E)
    if 1 < T == k.shape[2] <= PLAIN and q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
        return _attend_plainly(q, k, v, mask)
    if mask is not None and k.shape[1] != H and q.device.type == "cuda":
        # with a mask and shared heads, SDPA would hold the weights of all heads
        k, v = (x.repeat_interleave(H // k.shape[1], 1) for x in (k, v))
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
        seen = group_mask(group, q.dtype)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, is_causal=seen is None, enable_gqa=q.shape[1] != k.shape[1]
        )
        real = group.index >= 0
        out = out.index_put((group.index[real],), mixed.transpose(1, 2)[real])
    return out


@lru_cache(maxsize=16)
def rope_table(head_dim: int, theta: float, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, E/2], fp32, of position × theta^(-2i/E).

    Not a buffer of the module: ``model.to(torch.bfloat16)`` would round the angles' cosines to 8 bits.
    """
    with torch.inference_mode(False):  # a table first made while sampling must still serve training
        exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), 1.0 / theta**exponents)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in fp32, Hugging Face's layout: component i is paired with i + E/2.

    Args:
        x: [B, T, heads, E].
        cos: [B or 1, T, 1, E/2] fp32; sin likewise.
    """
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def _attend_pieces(q: Tensor, k: Tensor, v: Tensor, pieces: Pieces) -> Tensor:
    """Piece by piece: time and memory follow the pieces' lengths squared, not the row's."""
    split = [torch.split(x.transpose(1, 2).flatten(0, 1), pieces.sizes) for x in (q, k, v)]
    mixed = []
    for a, b, c, mask in zip(*split, pieces.masks, strict=True):
        heads = [x.transpose(0, 1)[None] for x in (a, b, c)]
        mixed.append(attend(heads[0], heads[1], heads[2], mask)[0].transpose(0, 1))
    B, H, T, E = q.shape
    return torch.cat(mixed).view(B, T, H, E).transpose(1, 2)


def _attend_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> Tensor:
    """By torch's variable-length kernel, causal within each document."""
    from torch.nn.attention.varlen import varlen_attn

    a, b, c = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    starts, longest, shared = lengths.starts, lengths.longest, k.shape[1] != q.shape[1]
    mixed = varlen_attn(a, b, c, starts, starts, longest, longest, window_size=(-1, 0), enable_gqa=shared)
    assert isinstance(mixed, Tensor)
    B, H, T, E = q.shape
    return mixed.view(B, T, H, E).transpose(1, 2)


def visible(segments: Tensor, dtype: torch.dtype, stems: Tensor | None = None) -> Mask:
    """What each token of packed rows looks at, in the form that suits the rows' length and the device.

    Args:
        segments: as :func:`packed_mask`'s, which tells the rule.
        dtype: of queries and masks.
        stems: as :func:`packed_mask`'s.

    Returns:
        the documents, for the variable-length kernel, on an accelerator that has it; else the mask of short rows, and
        for rows of more than LONG tokens (MASKED, on an accelerator) their documents cut in pieces. No [T, T] mask is
        made of these, unless one document and its branches fill the row. Documents that do not lie in one piece
        each need the mask always.
    """
    kernel = stems is None and _has_kernel(segments.device, dtype)
    if not kernel and segments.shape[1] <= (LONG if segments.device.type == "cpu" else MASKED):
        return packed_mask(segments, dtype, stems)
    # what belongs together: a document, and all that goes on from it
    roots = segments if stems is None else torch.where(stems >= 0, stems, segments)
    first = torch.ones_like(roots, dtype=torch.bool)
    first[:, 1:] = roots[:, 1:] != roots[:, :-1]
    in_order = roots.sort(1).values
    distinct = 1 + (in_order[:, 1:] != in_order[:, :-1]).sum(1)
    nested = stems is not None and _nested(segments, stems)
    if nested or not torch.equal(first.sum(1), distinct):
        return packed_mask(segments, dtype, stems)
    if kernel:
        starts = torch.cat((first.flatten().nonzero().squeeze(1), torch.tensor([first.numel()], device=first.device)))
        return Lengths(starts.int(), int(starts.diff().max()))
    return _cut(segments, dtype, stems, first)


def _cut(segments: Tensor, dtype: torch.dtype, stems: Tensor | None, first: Tensor) -> Pieces:
    """Rows in pieces: neighbouring documents share one of up to PIECE tokens, a longer document has its own."""
    pieces = Pieces([], [])
    T = segments.shape[1]
    for row in range(len(segments)):
        edges = [*first[row].nonzero().squeeze(1).tolist(), T]
        start, held = 0, 0
        for index, stop in enumerate(edges[1:], 1):
            held += 1
            if stop < T and edges[index + 1] - start <= PIECE:
                continue
            here = slice(start, stop)
            stem = None if stems is None else stems[row : row + 1, here]
            alone = held == 1 and (stem is None or not bool((stem >= 0).any()))
            pieces.sizes.append(stop - start)
            pieces.masks.append(None if alone else packed_mask(segments[row : row + 1, here], dtype, stem))
            start, held = stop, 0
    return pieces


def _nested(segments: Tensor, stems: Tensor) -> bool:
    """Whether some document goes on from one that itself goes on from another."""
    return any(
        bool(torch.isin(stem[stem >= 0], row[stem >= 0]).any()) for row, stem in zip(segments, stems, strict=True)
    )


def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's variable-length attention runs here: FlashAttention, in half precision."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0)


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
