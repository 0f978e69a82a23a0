"""A block's small operations in one pass each, on a CPU: the same values as plain PyTorch's, to rounding.

In a small model these take longer than the matrix products: PyTorch reads and writes a tensor for each of the ten
steps of a norm or a rotation. Here each is one kernel of ``kernels.cpp`` forward and one backward, and what backward
needs is worked out again where that is cheap. Products of matrices stay PyTorch's.

Dims: N tokens, H query heads, K key/value heads, E head width; D documents of a group, L tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from align.model.documents import Group
from align.model.native import kernels

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True, slots=True)
class Turns:
    """Rotary angles, and which each token has."""

    positions: Tensor  # [N] int64
    cos: Tensor  # [positions, E/2] fp32
    sin: Tensor


def usable(x: Tensor) -> bool:
    """Whether there are kernels for ``x``: plain memory of a CPU, fp32 or bf16, and a compiler was found."""
    return (
        x.device.type == "cpu"
        and x.dtype in NAMES
        and type(x) in (Tensor, torch.nn.Parameter)  # not a tensor that only stands for one
        and not torch.compiler.is_compiling()
        and kernels() is not None
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight, normalised in fp32 and rounded to x's dtype before it is scaled.

    Args:
        x: [..., width].
        weight: [width] of x's dtype.
        eps: added to the mean square.

    Returns:
        [..., width].
    """
    return cast(Tensor, _Norm.apply(x, weight, eps))  # type: ignore[no-untyped-call]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, [..., width]; only its two inputs are kept for backward."""
    return cast(Tensor, _SwiGLU.apply(gate, up))  # type: ignore[no-untyped-call]


def attention(q: Tensor, k: Tensor, v: Tensor, turns: Turns, groups: Sequence[Group]) -> Tensor:
    """Rotary attention of projections, document by document; holds a document's weights, [H, L, L], for backward.

    Args:
        q: [N, H, E], not rotated yet.
        k: [N, K, E], likewise; each key/value head serves H/K consecutive query heads.
        v: [N, K, E].
        turns: the angles.
        groups: documents of the N tokens (align/model/documents.py).

    Returns:
        [N, H, E]; 0 for tokens of no document.
    """
    assert q.dtype == k.dtype == v.dtype
    assert turns.cos.dtype == turns.sin.dtype == torch.float32
    return cast(Tensor, _Attention.apply(q, k, v, turns, groups))  # type: ignore[no-untyped-call]


def _kernel(name: str, like: Tensor) -> Callable[..., None]:
    found = kernels()
    assert found is not None, "usable() was not asked"
    return found[f"{name}_{NAMES[like.dtype]}"]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        out, scale = torch.empty_like(x), torch.empty(rows, dtype=torch.float32)
        _kernel("rms_norm", x)(
            x.data_ptr(), weight.data_ptr(), out.data_ptr(), scale.data_ptr(), rows, width, eps
        )  # fmt: skip
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        upstream = upstream.contiguous()
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        _kernel("rms_norm_backward", x)(
            x.data_ptr(), weight.data_ptr(), scale.data_ptr(), upstream.data_ptr(), dx.data_ptr(), dweight.data_ptr(),
            scale.numel(), x.shape[-1],
        )  # fmt: skip
        return dx, dweight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        _kernel("swiglu", gate)(gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        upstream = upstream.contiguous()
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        _kernel("swiglu_backward", gate)(
            gate.data_ptr(), up.data_ptr(), upstream.data_ptr(), dgate.data_ptr(), dup.data_ptr(), gate.numel()
        )
        return dgate, dup


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, turns: Turns, groups: Sequence[Group]) -> Tensor:
        (_, H, E), K = q.shape, k.shape[1]
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = _room(groups, q)
        kept: list[Tensor] = []
        for group in groups:
            D, L = group.index.shape
            # queries of the heads that share a key head are rows of one product
            queries = _apart(q, group, turns, E**-0.5).view(D * K, H // K * L, E)
            keys, values = _apart(k, group, turns).view(D * K, L, E), _apart(v, group).view(D * K, L, E)
            weights = torch.bmm(queries, keys.transpose(1, 2))
            sees = (None, None) if group.own is None or group.stem is None else (_at(group.own), _at(group.stem))
            _kernel("softmax", q)(_at(weights), *sees, D, H, L)
            _together(torch.bmm(weights, values), out, group)
            kept += (queries, keys, values, weights)
        ctx.save_for_backward(*kept)
        ctx.turns, ctx.groups, ctx.kv_heads = turns, groups, K
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        kept, turns, groups = ctx.saved_tensors, ctx.turns, ctx.groups
        (_, H, E), K = upstream.shape, ctx.kv_heads
        upstream = upstream.contiguous()
        dq, dk, dv = (_room(groups, upstream, heads) for heads in (H, K, K))
        for number, group in enumerate(groups):
            queries, keys, values, weights = kept[4 * number : 4 * number + 4]
            mixed = _apart(upstream, group).view(queries.shape)
            scores = torch.bmm(mixed, values.transpose(1, 2))
            _together(torch.bmm(weights.transpose(1, 2), mixed), dv, group)
            L = group.index.shape[1]
            _kernel("softmax_backward", scores)(_at(weights), _at(scores), scores.numel() // L, L)
            _together(torch.bmm(scores, keys), dq, group, turns, E**-0.5)
            _together(torch.bmm(scores.transpose(1, 2), queries), dk, group, turns)
        return dq, dk, dv, None, None


def _room(groups: Sequence[Group], like: Tensor, heads: int | None = None) -> Tensor:
    """[N, heads, E], 0 where no document will write."""
    shape = (len(like), heads or like.shape[1], like.shape[2])
    full = sum(group.count for group in groups) == len(like)
    return like.new_empty(shape) if full else like.new_zeros(shape)


def _apart(x: Tensor, group: Group, turns: Turns | None = None, factor: float = 1.0) -> Tensor:
    """[N, heads, E] -> [D, heads, L, E], 0 as padding; with ``turns`` rotated and scaled."""
    (_, heads, E), (D, L) = x.shape, group.index.shape
    out = x.new_empty(D, heads, L, E)
    _kernel("heads_apart", x)(_at(x), _at(out), _at(group.index), *_table(turns), D, L, heads, E, factor)
    return out


def _together(x: Tensor, out: Tensor, group: Group, turns: Turns | None = None, factor: float = 1.0) -> None:
    """[D, heads, L, E] in any view into its tokens' places of ``out``; with ``turns`` rotated back and scaled."""
    (_, heads, E), (D, L) = out.shape, group.index.shape
    x = x.contiguous()
    _kernel("heads_together", x)(_at(x), _at(out), _at(group.index), *_table(turns), D, L, heads, E, factor)


def _at(x: Tensor) -> int:
    return x.data_ptr()


def _table(turns: Turns | None) -> tuple[int | None, int | None, int | None]:
    if turns is None:
        return None, None, None
    return _at(turns.positions), _at(turns.cos), _at(turns.sin)
