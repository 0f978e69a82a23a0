from __future__ import annotations

import math

import pytest
import torch

from align.errors import ShapeError
from align.losses import kl_k1, kl_k3
from tests.oracles import losses as oracle


def test_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.3]]).log(), torch.tensor([[0.25, 0.5, 0.3]]).log()
    log2 = math.log(2)
    torch.testing.assert_close(kl_k1(p, q), torch.tensor([[log2, -log2, 0.0]]))
    torch.testing.assert_close(kl_k3(p, q), torch.tensor([[log2 - 0.5, 1 - log2, 0.0]]))


def test_oracle_and_batched_equals_single() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (-3 * torch.rand(2, 4, 6, generator=generator, dtype=torch.float64)).unbind()
    k1, k3 = kl_k1(p, q), kl_k3(p, q)
    for b in range(4):
        for t in range(6):
            a, c = p[b, t].item(), q[b, t].item()
            assert k1[b, t].item() == a - c
            assert k3[b, t].item() == pytest.approx(oracle.kl_k3(a, c), abs=1e-13)
        torch.testing.assert_close(kl_k3(p[b], q[b]), k3[b], rtol=0, atol=0)


def test_the_mean_over_sampled_tokens_is_the_kl_divergence() -> None:
    """Exact expectation under p, by weighing every token with its probability: both are unbiased."""
    generator = torch.Generator().manual_seed(1)
    p, q = (2 * torch.randn(2, 50, generator=generator, dtype=torch.float64)).log_softmax(-1).unbind()
    exact = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
    assert (p.exp() * kl_k1(p, q)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (p.exp() * kl_k3(p, q)).sum().item() == pytest.approx(exact, abs=1e-12)


def test_k3_of_almost_equal_log_probs_keeps_its_digits_in_fp32() -> None:
    ref = torch.full((1, 6), -1.0)
    p = ref + torch.tensor([[1e-1, -1e-2, 1e-3, -1e-4, 1e-5, 0.0]])
    d = ref.double() - p.double()
    series = sum(d**k / math.factorial(k) for k in range(2, 12))  # exp(d) - 1 - d, term by term
    torch.testing.assert_close(kl_k3(p, ref).double(), series, rtol=1e-6, atol=0)


def test_extremes_are_finite_in_value_and_gradient_and_k3_is_never_negative() -> None:
    p = torch.tensor([[-1e4, 0.0, -1e30, -0.0, float("-inf")]], requires_grad=True)
    q = torch.tensor([[0.0, -1e4, 0.0, -1e30, -1.0]])
    k3 = kl_k3(p, q)
    top = math.exp(20) - 1 - 20
    torch.testing.assert_close(k3, torch.tensor([[top, math.exp(-20) + 19, top, math.exp(-20) + 19, top]]))
    k3.sum().backward()
    assert p.grad is not None
    assert (p.grad == 0).all()  # beyond the clamp
    a, b = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).unbind()
    assert (kl_k3(a, b) >= 0).all()
    assert (kl_k3(a, a + 1e-6 * b) >= 0).all()


def test_gradcheck() -> None:
    p, q = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).unbind()
    inputs = (p.clone().requires_grad_(), q.clone().requires_grad_())
    assert torch.autograd.gradcheck(kl_k1, inputs)
    assert torch.autograd.gradcheck(kl_k3, inputs)


@pytest.mark.parametrize("function", [kl_k1, kl_k3])
def test_dtypes_and_shapes(function) -> None:
    half = torch.tensor([[-1.0, -2.0]], dtype=torch.bfloat16)
    assert function(half, half * 2).dtype == torch.float32
    assert function(half, half * 2).equal(function(half.float(), half.float() * 2))
    assert function(half.double(), half.double()).dtype == torch.float64
    with pytest.raises(ShapeError, match=r"logprobs \[1, 2\], ref_logprobs \[2\]"):
        function(half, half[0])
