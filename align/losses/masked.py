"""What every loss here stands on: shape checks, fp32, and sums that see counted positions only."""

from __future__ import annotations

import torch
from torch import Tensor

from align.errors import ShapeError, TrainingError


def same_shape(function: str, **tensors: Tensor) -> None:
    """Refuse tensors that would broadcast.

    Args:
        function: named in the message.
        tensors: by argument name.

    Raises:
        ShapeError: two of them differ in shape; the message names every shape.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ShapeError(f"{function}: found {found}; expected one shape for all, nothing is broadcast")


def check_bool(function: str, **masks: Tensor) -> None:
    """Refuse a mask of another dtype: -1 for "not labelled" or 0.3 would silently count as True.

    Raises:
        TypeError: a mask is not bool.
    """
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise TypeError(f"{function}: {name} is {mask.dtype}, expected torch.bool (True = counts)")


def full(x: Tensor) -> Tensor:
    """``x`` in fp32, or as it is where it is fp64: half precision never sums or exponentiates here."""
    return x if x.dtype == torch.float64 else x.float()


def counted(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` where ``mask``, elsewhere exactly 0 with exactly 0 gradient, even if ``x`` is NaN there."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of the counted values.

    Args:
        x: values, any shape.
        mask: same shape, bool, True = counts.
        dim: sum over this dim only; over everything where None.

    Returns:
        fp32 (fp64 where ``x`` is): a scalar, or ``x``'s shape without ``dim``.

    Raises:
        ShapeError: shapes differ.
    """
    same_shape("masked_sum", x=x, mask=mask)
    check_bool("masked_sum", mask=mask)
    values = counted(full(x), mask)
    return values.sum() if dim is None else values.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the counted values: their sum over their number, never a mean of means.

    Args:
        x: values, any shape.
        mask: same shape, bool, True = counts.
        dim: mean over this dim only; over everything where None.

    Returns:
        fp32 (fp64 where ``x`` is): a scalar, or ``x``'s shape without ``dim``.

    Raises:
        ShapeError: shapes differ.
        TrainingError: nothing counts (in some row, where ``dim`` is given).
    """
    total = masked_sum(x, mask, dim)
    count = mask.sum() if dim is None else mask.sum(dim)
    if bool((count == 0).any()):
        raise TrainingError("masked_mean: no counted position to take the mean of")
    return total / count
