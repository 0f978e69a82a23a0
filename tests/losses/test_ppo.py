from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from align.errors import ShapeError
from align.losses import ppo_policy_loss, ppo_value_loss
from tests.oracles import losses as oracle


def draw(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_policy_by_hand() -> None:
    up, down = math.log(1.5), math.log(0.5)
    logprobs = torch.tensor([[up, up, down, down, 0.0]])
    advantages = torch.tensor([[2.0, -2.0, 2.0, -2.0, 3.0]])
    loss = ppo_policy_loss(logprobs, torch.zeros(1, 5), advantages, clip=0.2)
    # gains are capped at 1.2 and 0.8 of the advantage, losses are felt in full; at ratio 1 it is -A
    torch.testing.assert_close(loss, torch.tensor([[-2.4, 3.0, -1.0, 1.6, -3.0]]))


def test_policy_gradient_by_hand() -> None:
    logprobs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0, 1.1])).requires_grad_()
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0, 3.0, 1.0])
    ppo_policy_loss(logprobs, torch.zeros(6), advantages, clip=0.2).sum().backward()
    # -A ratio, and 0 where the clip holds; at ratio 1 the plain policy gradient, not half of it
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 3.0, -1.0, 0.0, -3.0, -1.1]))


def test_value_by_hand() -> None:
    values = torch.tensor([[1.0, 1.5, 0.1, 2.0]])
    old = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    returns = torch.tensor([[3.0, 2.0, 0.0, 0.0]])
    loss = ppo_value_loss(values, old, returns, clip=0.2)
    # kept; 1.2 is further off and taken; so is 0.8; 1.2 would be nearer and is not taken
    torch.testing.assert_close(loss, 0.5 * torch.tensor([[4.0, 0.8**2, 0.8**2, 4.0]]))


@pytest.mark.parametrize("clip", [0.0, 0.1, 0.2, 0.5])
def test_oracles_token_by_token(clip: float) -> None:
    a, b, c = (draw(300, seed) for seed in range(3))
    policy, value = ppo_policy_loss(a * 0.3, b * 0.3, c, clip), ppo_value_loss(a, b, c, clip)
    for i in range(300):
        x, y, z = a[i].item(), b[i].item(), c[i].item()
        assert policy[i].item() == pytest.approx(oracle.ppo_policy_loss(x * 0.3, y * 0.3, z, clip), abs=1e-12)
        assert value[i].item() == pytest.approx(oracle.ppo_value_loss(x, y, z, clip), abs=1e-12)
        one = slice(i, i + 1)
        assert ppo_policy_loss(a[one] * 0.3, b[one] * 0.3, c[one], clip).item() == policy[i].item()
        assert ppo_value_loss(a[one], b[one], c[one], clip).item() == value[i].item()


def test_gradcheck_away_from_the_kinks() -> None:
    old, gain = draw(40, 1), draw(40, 2)
    step = torch.tensor([-0.5, -0.1, 0.1, 0.5], dtype=torch.float64).repeat(10)
    assert torch.autograd.gradcheck(lambda x: ppo_policy_loss(x, old, gain, 0.2), ((old + step).requires_grad_(),))
    assert torch.autograd.gradcheck(lambda x: ppo_value_loss(x, old, gain, 0.2), ((old + step).requires_grad_(),))


def test_policy_extremes() -> None:
    logprobs = torch.tensor([0.0, -1e4, -1e30, float("-inf"), 0.0], requires_grad=True)
    old = torch.tensor([-1e4, 0.0, 0.0, 0.0, float("-inf")])
    loss = ppo_policy_loss(logprobs, old, torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0]), clip=0.2)
    huge, tiny = math.exp(20), math.exp(-20)
    torch.testing.assert_close(loss, torch.tensor([huge, -tiny, 0.8, -tiny, huge]))
    loss.sum().backward()
    assert logprobs.grad is not None
    assert (logprobs.grad == 0).all()


def test_value_extremes() -> None:
    values = torch.tensor([1e15, -1e15], requires_grad=True)
    loss = ppo_value_loss(values, torch.zeros(2), torch.zeros(2), clip=0.2)
    torch.testing.assert_close(loss, torch.full((2,), 5e29))
    loss.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([1e15, -1e15]))


@pytest.mark.parametrize("function", [ppo_policy_loss, ppo_value_loss])
def test_half_precision_shapes_and_clip(function) -> None:
    x = draw(12, 0).reshape(3, 4).bfloat16()
    found = function(x, x * 0.9, x * 2, 0.2)
    assert found.dtype == torch.float32
    assert found.equal(function(x.float(), (x * 0.9).float(), (x * 2).float(), 0.2))
    with pytest.raises(ShapeError, match=r"\[3, 4\].*\[4\].*\[3, 4\]"):
        function(x, x[0], x, 0.2)
    with pytest.raises(ValueError, match=r"clip: found -0\.1"):
        function(x, x, x, -0.1)
