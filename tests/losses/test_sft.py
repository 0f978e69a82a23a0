from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from align.errors import ShapeError
from align.losses import sft_loss
from tests.losses.cases import masks, spoil
from tests.oracles import losses as oracle


def draw(mask: Tensor, V: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*mask.shape, V, generator=generator, dtype=torch.float64) * 2
    return logits, torch.randint(V, mask.shape, generator=generator)


def test_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3.0)], [math.log(9.0), 0.0]]])
    loss = sft_loss(logits, torch.tensor([[0, 1, 1]]), torch.tensor([[False, True, True]]))
    torch.testing.assert_close(loss, torch.tensor([[0.0, math.log(4 / 3), math.log(10)]]))


@given(masks(), st.integers(0, 99))
def test_oracle_and_pads_change_nothing(mask: Tensor, seed: int) -> None:
    clean, tokens = draw(mask, 5, seed)
    logits = spoil(clean, mask.unsqueeze(-1).expand_as(clean)).requires_grad_()
    labels = torch.where(mask, tokens, -100)
    loss = sft_loss(logits, labels, mask)
    for b, t in torch.cartesian_prod(torch.arange(mask.shape[0]), torch.arange(mask.shape[1])).tolist():
        expected = oracle.token_logprob(clean[b, t].tolist(), int(tokens[b, t])) if mask[b, t] else 0.0
        assert -loss[b, t].item() == pytest.approx(expected, abs=1e-12)
    loss.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    # one document alone, pads cut off, has the same loss and gradient
    for b in range(mask.shape[0]):
        alone = clean[b][mask[b]].clone().requires_grad_()
        single = sft_loss(alone, tokens[b][mask[b]], torch.ones_like(tokens[b][mask[b]], dtype=torch.bool))
        torch.testing.assert_close(single, loss[b][mask[b]], rtol=0, atol=1e-14)
        single.sum().backward()
        torch.testing.assert_close(alone.grad, logits.grad[b][mask[b]], rtol=0, atol=1e-14)


def test_equals_torch_cross_entropy_in_value_and_gradient() -> None:
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    logits, tokens = draw(mask, 30, 2)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = sft_loss(ours, tokens, mask)
    peer = F.cross_entropy(theirs.flatten(0, 1), torch.where(mask, tokens, -100).flatten(), reduction="none")
    torch.testing.assert_close(loss.flatten(), peer, rtol=0, atol=1e-14)
    (loss**2).sum().backward()
    (peer**2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)


def test_gradcheck() -> None:
    mask = torch.tensor([[True, False, True], [True, True, False]])
    logits, tokens = draw(mask, 4, 3)
    assert torch.autograd.gradcheck(lambda x: sft_loss(x, tokens, mask), (logits.requires_grad_(),))


def test_masked_zeros_are_plain_zeros() -> None:
    loss = sft_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), torch.tensor([[False, True]]))
    assert not torch.signbit(loss[0, 0])


def test_what_does_not_fit_is_refused() -> None:
    logits, tokens = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"sft_loss: found logits \[2, 3, 5\], tokens \[2, 3\], mask \[1, 3\]"):
        sft_loss(logits, tokens, torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"mask is torch\.float32"):
        sft_loss(logits, tokens, torch.ones(2, 3))
