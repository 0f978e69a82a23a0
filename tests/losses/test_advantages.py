from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from align.errors import ShapeError
from align.losses import gae
from tests.losses.cases import masks, spoil, values
from tests.oracles import losses as oracle

EVERY = torch.ones(1, 3, dtype=torch.bool)


def test_by_hand() -> None:
    rewards, critic = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 0.75]])
    # deltas: 0 + .25 - .5 = -.25; 0 + .75 - .25 = .5; 1 + 0 - .75 = .25; gamma lam = .5
    advantages, returns = gae(rewards, critic, EVERY, gamma=1.0, lam=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.0625, 0.625, 0.25]]))
    torch.testing.assert_close(returns, torch.tensor([[0.5625, 0.875, 1.0]]))


def test_lambda_1_is_monte_carlo_and_lambda_0_one_step() -> None:
    rewards, critic = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3.0, 5.0, 7.0]])
    assert gae(rewards, critic, EVERY, 1.0, 1.0)[1].tolist() == [[7, 6, 4]]
    assert gae(rewards, critic, EVERY, 0.5, 1.0)[1].tolist() == [[1 + 1 + 1, 2 + 2, 4]]
    assert gae(rewards, critic, EVERY, 1.0, 0.0)[0].tolist() == [[1 + 5 - 3, 2 + 7 - 5, 4 - 7]]


@pytest.mark.parametrize("pads", [(0, 2), (2, 0), (1, 3)], ids=["right", "left", "both"])
def test_padding_on_either_side_by_hand(pads: tuple[int, int]) -> None:
    left, right = pads
    rewards = torch.tensor([[float("nan")] * left + [0.0, 0.0, 1.0] + [9.0] * right])
    critic = torch.tensor([[7.0] * left + [0.5, 0.25, 0.75] + [float("inf")] * right])
    mask = torch.tensor([[False] * left + [True] * 3 + [False] * right])
    advantages, returns = gae(rewards, critic, mask, gamma=1.0, lam=0.5)
    assert advantages[0].tolist() == [0] * left + [0.0625, 0.625, 0.25] + [0] * right
    assert returns[0].tolist() == [0] * left + [0.5625, 0.875, 1.0] + [0] * right


@given(
    masks(),
    st.integers(0, 99),
    st.sampled_from([1.0, 0.99, 0.5, 0.0]),
    st.sampled_from([1.0, 0.95, 0.3, 0.0]),
)
def test_oracle_row_by_row_wherever_the_pads_are(mask: Tensor, seed: int, gamma: float, lam: float) -> None:
    r, v = values(mask, seed), values(mask, seed + 1)
    rewards, critic = spoil(r, mask).requires_grad_(), spoil(v, mask).requires_grad_()
    advantages, returns = gae(rewards, critic, mask, gamma, lam)
    for b in range(mask.shape[0]):
        expected = oracle.gae(r[b][mask[b]].tolist(), v[b][mask[b]].tolist(), gamma, lam)
        assert advantages[b][mask[b]].tolist() == pytest.approx(expected[0], abs=1e-12)
        assert returns[b][mask[b]].tolist() == pytest.approx(expected[1], abs=1e-12)
    for x in (advantages, returns):
        assert (x[~mask] == 0).all()
        for grad in torch.autograd.grad((x * r).sum(), (rewards, critic), retain_graph=True):
            assert (grad[~mask] == 0).all()
            assert torch.isfinite(grad).all()


def test_gradcheck() -> None:
    mask = torch.tensor([[False, True, True, True], [True, False, True, False]])
    inputs = (values(mask, 1).requires_grad_(), values(mask, 2).requires_grad_())
    assert torch.autograd.gradcheck(lambda r, v: gae(r, v, mask, 0.9, 0.8), inputs)


def test_extremes_and_half_precision() -> None:
    advantages, returns = gae(torch.full((1, 3), 1e30), torch.full((1, 3), -1e30), EVERY, 1.0, 0.95)
    assert torch.isfinite(advantages).all()
    assert torch.isfinite(returns).all()
    ones = torch.ones(1, 1000, dtype=torch.bfloat16)
    _, summed = gae(ones, ones * 0, torch.ones(1, 1000, dtype=torch.bool), 1.0, 1.0)
    assert summed[0, 0].item() == 1000  # bf16 itself would stick at 256
    assert summed.dtype == torch.float32


def test_no_columns_and_no_counted_token() -> None:
    empty = torch.zeros(2, 0)
    assert [x.shape for x in gae(empty, empty, empty.bool(), 1.0, 1.0)] == [(2, 0), (2, 0)]
    advantages, returns = gae(torch.ones(1, 3), torch.ones(1, 3), ~EVERY, 1.0, 1.0)
    assert advantages.tolist() == returns.tolist() == [[0, 0, 0]]


def test_refusals() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match=r"rewards \[2, 3\], values \[2, 1\], mask \[2, 3\]"):
        gae(x, x[:, :1], x.bool(), 1.0, 0.95)
    with pytest.raises(ShapeError, match=r"expected \[B, T\]"):
        gae(x[0], x[0], x[0].bool(), 1.0, 0.95)
    with pytest.raises(TypeError, match=r"mask is torch\.float32"):
        gae(x, x, x, 1.0, 0.95)
