from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from align.errors import AlignError, ShapeError, TrainingError
from align.losses import masked_mean, masked_sum
from tests.losses.cases import masks, spoil, values

X = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
MASK = torch.tensor([[True, False, True], [False, True, False]])


def test_by_hand() -> None:
    assert masked_sum(X, MASK).item() == 21
    assert masked_mean(X, MASK).item() == 7  # not (2.5 + 16) / 2
    assert masked_sum(X, MASK, dim=1).tolist() == [5, 16]
    assert masked_mean(X, MASK, dim=-1).tolist() == [2.5, 16]


@given(masks(row_may_be_empty=False), st.integers(0, 99))
def test_equal_to_the_counted_values_alone_whatever_stands_elsewhere(mask: Tensor, seed: int) -> None:
    clean = values(mask, seed)
    x = spoil(clean, mask)
    assert masked_sum(x, mask).item() == pytest.approx(sum(clean[mask].tolist()), abs=1e-12)
    assert masked_mean(x, mask).item() == pytest.approx(clean[mask].mean().item(), abs=1e-12)
    for row, mean in enumerate(masked_mean(x, mask, dim=1).tolist()):
        assert mean == pytest.approx(clean[row][mask[row]].mean().item(), abs=1e-12)


def test_gradient_is_one_nth_where_counted_and_exactly_0_under_nan() -> None:
    x = spoil(X, MASK).requires_grad_()
    masked_mean(x, MASK).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, MASK.float() / 3)


def test_half_precision_is_summed_in_fp32() -> None:
    ones = torch.ones(1, 4096, dtype=torch.bfloat16)  # a bf16 running sum would stick at 256
    assert masked_sum(ones, torch.ones(1, 4096, dtype=torch.bool)).item() == 4096
    assert masked_sum(ones, torch.ones(1, 4096, dtype=torch.bool)).dtype == torch.float32


def test_nothing_counted_has_a_sum_and_no_mean() -> None:
    none = torch.zeros_like(MASK)
    assert masked_sum(X, none).item() == 0
    with pytest.raises(TrainingError, match="no counted position"):
        masked_mean(X, none)
    with pytest.raises(TrainingError, match="no counted position"):
        masked_mean(X, torch.tensor([[True, True, True], [False, False, False]]), dim=1)


def test_broadcasting_is_refused_with_both_shapes_named() -> None:
    with pytest.raises(ShapeError, match=r"masked_sum: found x \[2, 3\], mask \[1, 3\]; expected one shape") as error:
        masked_sum(X, MASK[:1])
    assert isinstance(error.value, AlignError)
    assert isinstance(error.value, ValueError)


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"masked_mean|masked_sum: mask is torch.int64, expected torch.bool"):
        masked_mean(X, MASK.long())
