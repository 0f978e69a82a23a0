from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from align.errors import ShapeError
from align.losses import entropy, logprobs, token_logprobs
from tests.losses.cases import Sizes
from tests.oracles import losses as oracle


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64) * 3
    return logits.to(dtype), torch.randint(shape[-1], shape[:-1], generator=generator)


@pytest.fixture(params=[1, 40, 1 << 20], ids=["a-position-a-slice", "a-few", "all-at-once"])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", request.param)


def test_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0]]])  # 1/4 3/4; 4/5 1/5
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([[1, 1]])), torch.tensor([[0.75, 0.2]]).log())
    # T = 2 takes the square roots of the odds: 1 : sqrt 3, 2 : 1
    torch.testing.assert_close(
        token_logprobs(logits, torch.tensor([[0, 0]]), temperature=2.0),
        torch.tensor([[1 / (1 + math.sqrt(3)), 2 / 3]]).log(),
    )
    assert entropy(torch.zeros(1, 1, 8)).item() == pytest.approx(math.log(8))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy(logits)[0, 0].item() == pytest.approx(expected)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_oracle_token_by_token(temperature: float) -> None:
    logits, tokens = draw(3, 4, 7)
    found = token_logprobs(logits, tokens, temperature)
    spread = entropy(logits, temperature)
    for b in range(3):
        for t in range(4):
            row, token = logits[b, t].tolist(), int(tokens[b, t])
            assert found[b, t].item() == pytest.approx(oracle.token_logprob(row, token, temperature), abs=1e-12)
            assert spread[b, t].item() == pytest.approx(oracle.entropy(row, temperature), abs=1e-12)


@pytest.mark.usefixtures("_chunk")
def test_batched_equals_single_and_views_equal_copies() -> None:
    logits, tokens = draw(3, 6, 11)
    shifted = token_logprobs(logits[:, :-1], tokens[:, 1:])  # not contiguous, as a causal model gives it
    assert shifted.shape == (3, 5)
    for b in range(3):
        single = token_logprobs(logits[b, :-1].clone(), tokens[b, 1:].clone())
        torch.testing.assert_close(shifted[b], single, rtol=0, atol=1e-14)
    torch.testing.assert_close(entropy(logits.transpose(0, 1)), entropy(logits).T, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradcheck(temperature: float) -> None:
    logits, tokens = draw(2, 3, 5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_logprobs(x, tokens, temperature), (logits,))
    assert torch.autograd.gradcheck(lambda x: entropy(x, temperature), (logits,))
    assert torch.autograd.gradcheck(lambda x: token_logprobs(x[:, :-1], tokens[:, 1:]), (logits,))


def test_half_precision_is_computed_in_fp32_and_its_gradient_comes_back_in_half() -> None:
    half, tokens = draw(2, 8, 50, dtype=torch.bfloat16)
    wide = half.float()
    for function in (lambda x: token_logprobs(x, tokens), entropy):
        a, b = half.clone().requires_grad_(), wide.clone().requires_grad_()
        ours, theirs = function(a), function(b)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        ours.sum().backward()
        theirs.sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad.bfloat16(), rtol=0, atol=0)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [1e4, 1e4, -1e4]]], requires_grad=True)
    found = token_logprobs(logits, torch.tensor([[0, 1, 1]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, -math.log(3), -math.log(2)]]))
    lost = token_logprobs(logits, torch.tensor([[1, 1, 2]]))
    assert lost[0, 0].item() == pytest.approx(-2e30)
    spread = entropy(logits)
    torch.testing.assert_close(spread, torch.tensor([[0.0, math.log(3), math.log(2)]]))
    (found + lost + spread).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    # onehot - softmax, twice, and entropy is level at its maximum
    torch.testing.assert_close(logits.grad[0, 0], torch.tensor([-1.0, 1.0, 0.0]))


def test_a_forbidden_token_has_no_share_and_no_gradient() -> None:
    logits = torch.tensor([[[0.0, 0.0, float("-inf")]]], requires_grad=True)
    assert entropy(logits).item() == pytest.approx(math.log(2))
    (token_logprobs(logits, torch.tensor([[0]])) + entropy(logits)).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.5, -0.5, 0.0]]]))


@pytest.mark.parametrize("function", [lambda x, y: token_logprobs(x, y, 0.9), lambda x, y: entropy(x, 0.9)])
def test_nothing_of_the_size_of_the_logits_is_made_but_their_gradient(
    function: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", 4000)
    logits, tokens = draw(4, 16, 500, dtype=torch.bfloat16)
    logits.requires_grad_()
    with Sizes(4001) as forward:
        loss = function(logits, tokens).sum()
    assert not forward.seen
    with Sizes(4001) as backward:
        loss.backward()
    assert len(backward.seen) == 1
    assert {tensor.dtype for tensor in backward.kept} == {torch.bfloat16}


def test_shapes_and_temperatures_that_do_not_fit_are_refused() -> None:
    logits, tokens = draw(2, 3, 5)
    with pytest.raises(ShapeError, match=r"token_logprobs: found logits \[2, 3, 5\], tokens \[2, 1\]"):
        token_logprobs(logits, tokens[:, :1])
    with pytest.raises(ShapeError, match=r"entropy: found logits \[5\]"):
        entropy(logits[0, 0])
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature: found"):
            token_logprobs(logits, tokens, bad)
        with pytest.raises(ValueError, match="temperature: found"):
            entropy(logits, bad)
