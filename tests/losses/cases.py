"""Inputs shared by the tests of this folder: random rows whose counted tokens lie anywhere."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

BAD = (float("nan"), float("inf"), float("-inf"))  # what may stand where nothing counts


@st.composite
def masks(draw: st.DrawFn, row_may_be_empty: bool = True) -> Tensor:
    """[B, T] bool: left pads, right pads, gaps, full and empty rows, at least one counted position."""
    B, T = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rows = [draw(st.lists(st.booleans(), min_size=T, max_size=T)) for _ in range(B)]
    mask = torch.tensor(rows)
    for row in range(B if not row_may_be_empty else 1):
        if not mask[row].any():
            mask[row, draw(st.integers(0, T - 1))] = True
    return mask


def values(mask: Tensor, seed: int, scale: float = 3.0) -> Tensor:
    """[B, T] fp64, normal, for the positions of ``mask``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(mask.shape, generator=generator, dtype=torch.float64) * scale


def spoil(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` with NaN and infinities wherever nothing counts."""
    junk = torch.tensor(BAD, dtype=x.dtype).repeat(x.numel() // 3 + 1)[: x.numel()].reshape(x.shape)
    return torch.where(mask, x, junk)
