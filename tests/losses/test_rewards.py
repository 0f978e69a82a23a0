from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from align.errors import ShapeError, TrainingError
from align.losses import combine_rewards, moments, token_rewards, unit_variance, whiten
from tests.losses.cases import masks, spoil, values
from tests.oracles import losses as oracle

NAN = float("nan")


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_combine_by_hand() -> None:
    helpful = torch.tensor([1.0, 1.0, 1.0, 1.0])
    safety = torch.tensor([logit(0.14), logit(0.16), logit(0.16), logit(0.99)])
    prompts = torch.tensor([False, False, True, True])
    found = combine_rewards(helpful, safety, prompts, 0.15)
    # unsafe answer; safe answer; two safety prompts. What comes out is a logit, never a probability
    torch.testing.assert_close(found, torch.tensor([logit(0.14), 1.0, logit(0.16), logit(0.99)]))


@pytest.mark.parametrize("threshold", [0.01, 0.15, 0.5, 0.999])
def test_combine_oracle_answer_by_answer(threshold: float) -> None:
    helpful, safety = (3 * torch.randn(2, 200, generator=torch.Generator().manual_seed(0))).double().unbind()
    prompts = torch.arange(200) % 4 == 0
    found = combine_rewards(helpful, safety, prompts, threshold)
    for i in range(200):
        expected = oracle.combine_reward(helpful[i].item(), safety[i].item(), bool(prompts[i]), threshold)
        assert found[i].item() == expected
        assert combine_rewards(helpful[i : i + 1], safety[i : i + 1], prompts[i : i + 1], threshold).item() == expected


def test_combine_at_the_threshold_is_safe_enough() -> None:
    found = combine_rewards(torch.tensor([7.0]), torch.tensor([0.0]), torch.tensor([False]), 0.5)
    assert found.item() == 7.0  # the paper's comparison is strict


def test_combine_extremes_and_a_nan_is_not_hidden() -> None:
    safety = torch.tensor([-1e30, 1e30, NAN])
    found = combine_rewards(torch.tensor([1.0, 2.0, 3.0]), safety, torch.zeros(3, dtype=torch.bool), 0.15)
    assert found[:2].tolist() == [torch.tensor(-1e30).item(), 2.0]
    assert math.isnan(found[2].item())


def test_combine_gradient_goes_to_the_score_that_was_taken() -> None:
    helpful, safety = torch.zeros(2, requires_grad=True), torch.tensor([-5.0, 5.0], requires_grad=True)
    combine_rewards(helpful, safety, torch.tensor([False, False]), 0.15).sum().backward()
    assert helpful.grad is not None
    assert safety.grad is not None
    assert helpful.grad.tolist() == [0, 1]
    assert safety.grad.tolist() == [1, 0]


def test_combine_refusals() -> None:
    x, prompts = torch.zeros(2), torch.tensor([True, False])
    for bad in (0.0, 1.0, -1.7, 15.0, NAN):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            combine_rewards(x, x, prompts, bad)
    with pytest.raises(ShapeError, match=r"helpful \[2\], safety \[1\], is_safety_prompt \[2\]"):
        combine_rewards(x, x[:1], prompts, 0.15)
    with pytest.raises(TypeError, match=r"is_safety_prompt is torch\.float32"):
        combine_rewards(x, x, x, 0.15)


def test_whiten_by_hand() -> None:
    x = torch.tensor([[1.0, NAN, 3.0], [5.0, 7.0, 1e9]])
    mask = torch.tensor([[True, False, True], [True, True, False]])
    s = math.sqrt(5)  # of 1 3 5 7: mean 4, mean squared deviation 5
    torch.testing.assert_close(whiten(x, mask), torch.tensor([[-3 / s, 0, -1 / s], [1 / s, 3 / s, 0]]))
    torch.testing.assert_close(
        unit_variance(x, mask), torch.tensor([[4 - 3 / s, 0, 4 - 1 / s], [4 + 1 / s, 4 + 3 / s, 0]])
    )


@given(masks(), st.integers(0, 99))
def test_whiten_oracle_and_what_is_not_counted_changes_nothing(mask: Tensor, seed: int) -> None:
    clean = values(mask, seed) + 2
    x = spoil(clean, mask).requires_grad_()
    for function, shift in ((whiten, True), (unit_variance, False)):
        found = function(x, mask)
        expected = torch.tensor(oracle.whiten(clean[mask].tolist(), shift), dtype=torch.float64)
        torch.testing.assert_close(found[mask], expected, rtol=1e-9, atol=1e-9)
        assert (found[~mask] == 0).all()
        torch.testing.assert_close(function(clean[mask], torch.ones_like(clean[mask]).bool()), found[mask])
        (grad,) = torch.autograd.grad((found**2 * clean).sum(), x)
        assert (grad[~mask] == 0).all()
        assert torch.isfinite(grad).all()


@given(masks(), st.integers(0, 99))
def test_parts_whitened_over_the_moments_of_all_equal_the_whole(mask: Tensor, seed: int) -> None:
    x = values(mask, seed) + 1
    over = moments(x[:1], mask[:1]) + moments(x[1:], mask[1:])  # as two ranks would add them up
    for function in (whiten, unit_variance):
        parts = torch.cat([function(x[:1], mask[:1], over), function(x[1:], mask[1:], over)])
        torch.testing.assert_close(parts, function(x, mask), rtol=1e-6, atol=1e-6)


def test_whitened_values_have_mean_0_and_variance_1_or_the_mean_they_had() -> None:
    x = torch.randn(40, 25, generator=torch.Generator().manual_seed(3)) * 7 + 100
    mask = torch.rand(40, 25, generator=torch.Generator().manual_seed(4)) < 0.7
    for function, mean in ((whiten, 0.0), (unit_variance, x[mask].double().mean().item())):
        counted = function(x, mask)[mask].double()
        assert counted.mean().item() == pytest.approx(mean, abs=1e-4)
        assert counted.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)


def test_whiten_gradcheck() -> None:
    mask = torch.tensor([[True, True, False], [True, False, True]])
    x = values(mask, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: whiten(v, mask), (x,))
    assert torch.autograd.gradcheck(lambda v: unit_variance(v, mask), (x,))


def test_whiten_extremes() -> None:
    every = torch.ones(4, dtype=torch.bool)
    alone = torch.tensor([False, False, True, False])
    constant = torch.full((4,), 3.0, requires_grad=True)
    assert whiten(constant, every).tolist() == [0, 0, 0, 0]  # no spread: no division by 0
    assert unit_variance(constant, every).tolist() == [3, 3, 3, 3]
    assert whiten(constant, alone).tolist() == [0, 0, 0, 0]
    assert unit_variance(constant, alone).tolist() == [0, 0, 3, 0]
    (grad,) = torch.autograd.grad(whiten(constant, every).sum(), constant)
    assert torch.isfinite(grad).all()
    far = torch.tensor([1e30, -1e30, 1e30, -1e30])
    torch.testing.assert_close(whiten(far, every), torch.tensor([1.0, -1.0, 1.0, -1.0]))
    big = torch.tensor([1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3])  # the variance must not drown in the mean
    torch.testing.assert_close(whiten(big, every), torch.tensor([-3.0, -1.0, 1.0, 3.0]) / math.sqrt(5))


def test_whiten_refusals() -> None:
    x, none = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    for function in (whiten, unit_variance):
        with pytest.raises(TrainingError, match="no counted position"):
            function(x, none)
        with pytest.raises(ShapeError, match=r"x \[2, 3\], mask \[3\]"):
            function(x, none[0])
        with pytest.raises(TypeError, match=r"mask is torch\.int64"):
            function(x, none.long())


def test_token_rewards_by_hand() -> None:
    score = torch.tensor([1.0, -2.0])
    kl = torch.tensor([[NAN, 0.5, -1.0, NAN], [2.0, 3.0, 4.0, 5.0]])
    mask = torch.tensor([[False, True, True, False], [False, True, False, True]])
    # row 0: pads on both sides, the score on its last counted token, not on the last column
    expected = torch.tensor([[0.0, -0.05, 0.1 + 1.0, 0.0], [0.0, -0.3, 0.0, -0.5 - 2.0]])
    torch.testing.assert_close(token_rewards(score, kl, mask, beta=0.1), expected)


@given(masks(row_may_be_empty=False), st.integers(0, 99))
def test_token_rewards_oracle_row_by_row_wherever_the_pads_are(mask: Tensor, seed: int) -> None:
    clean = values(mask, seed)
    kl = spoil(clean, mask).requires_grad_()
    score = values(mask[:, 0], seed + 1).requires_grad_()
    found = token_rewards(score, kl, mask, 0.3)
    for b in range(mask.shape[0]):
        expected = oracle.token_rewards(score[b].item(), clean[b][mask[b]].tolist(), 0.3)
        assert found[b][mask[b]].tolist() == pytest.approx(expected, abs=1e-12)
    assert (found[~mask] == 0).all()
    total = torch.autograd.grad(found.sum(), (score, kl))
    torch.testing.assert_close(total[0], torch.ones_like(score))
    torch.testing.assert_close(total[1], -0.3 * mask.double())


def test_token_rewards_gradcheck() -> None:
    mask = torch.tensor([[True, True, False], [False, True, True]])
    inputs = (values(mask[:, 0], 1).requires_grad_(), values(mask, 2).requires_grad_())
    assert torch.autograd.gradcheck(lambda s, k: token_rewards(s, k, mask, 0.1), inputs)


def test_token_rewards_extremes_and_half_precision() -> None:
    mask = torch.tensor([[True, True]])
    found = token_rewards(torch.tensor([1e30]), torch.tensor([[1e30, -1e30]]), mask, 0.01)
    torch.testing.assert_close(found, torch.tensor([[-1e28, 1.01e30]]))
    half = token_rewards(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, 2, dtype=torch.bfloat16), mask, 0.001)
    torch.testing.assert_close(half, torch.tensor([[-0.001, 0.999]]))  # bf16 itself would say 1.0


def test_token_rewards_refusals() -> None:
    kl, mask = torch.zeros(2, 3), torch.tensor([[True, False, False], [False, False, False]])
    with pytest.raises(TrainingError, match="no counted token in row 1"):
        token_rewards(torch.zeros(2), kl, mask, 0.1)
    for score in (torch.zeros(1), torch.zeros(2, 1), torch.zeros(2, 3)):
        with pytest.raises(ShapeError, match=r"expected \[B\] and \[B, T\]"):
            token_rewards(score, kl, mask, 0.1)
    with pytest.raises(ShapeError, match=r"kl \[2, 3\], mask \[1, 3\]"):
        token_rewards(torch.zeros(2), kl, mask[:1], 0.1)
