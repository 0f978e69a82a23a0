"""Inputs shared by the tests of this folder: random rows whose counted tokens lie anywhere."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class Sizes(TorchDispatchMode):
    """How many storages of at least ``size`` elements the operations within have made."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.seen: set[int] = set()
        self.kept: list[Tensor] = []  # held, so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.numel() >= self.size:
                address = tensor.untyped_storage().data_ptr()
                if address not in known | self.seen:
                    self.seen.add(address)
                    self.kept.append(tensor)
        return out
