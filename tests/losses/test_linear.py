"""The head and the softmax in one, beside the whole head's logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.errors import ShapeError
from align.losses import linear as module
from align.losses import linear_logprobs, token_logprobs
from tests.losses.cases import Sizes


def draw(N: int, D: int, V: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, tokens and an upstream gradient that differs from position to position."""
    generator = torch.Generator().manual_seed(N + 10 * D + 100 * V)
    hidden, weight = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (N, V))
    tokens = torch.randint(V, (N,), generator=generator)
    upstream = torch.randn(N, generator=generator, dtype=torch.float64)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), tokens, upstream.to(torch.float32)


def whole(hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """All logits at once."""
    logits = F.linear(hidden, weight)
    return token_logprobs(logits, tokens, temperature), logits.argmax(-1) == tokens


def grads(found: Tensor, upstream: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((found * upstream).sum(), of)


@settings(max_examples=80, deadline=None)
@given(
    N=st.integers(0, 12),
    D=st.integers(1, 7),
    V=st.integers(1, 40),
    chunk=st.sampled_from([1, 40, 100, 1 << 24]),
    temperature=st.sampled_from([1.0, 0.6, 1.7]),
)
def test_chunks_equal_the_whole_head(N: int, D: int, V: int, chunk: int, temperature: float) -> None:
    hidden, weight, tokens, upstream = draw(N, D, V)
    found, right = linear_logprobs(hidden, weight, tokens, temperature, chunk)
    expected, top = whole(hidden, weight, tokens, temperature)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(right, top)
    ours, theirs = grads(found, upstream, hidden, weight), grads(expected, upstream, hidden, weight)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_chunks_within_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept chunk is itself walked over in slices that fit a CPU's cache."""
    monkeypatch.setattr(module, "SLICE", 60)
    hidden, weight, tokens, upstream = draw(23, 5, 30)
    found, right = linear_logprobs(hidden, weight, tokens, 0.8, chunk=300)
    expected, top = whole(hidden, weight, tokens, 0.8)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(right, top)
    for a, b in zip(grads(found, upstream, hidden, weight), grads(expected, upstream, hidden, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [15, 1 << 24])
def test_gradient_by_differences(chunk: int) -> None:
    hidden, weight, tokens, _ = draw(7, 3, 5, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: linear_logprobs(h, w, tokens, 1.3, chunk)[0], (hidden, weight))


def test_by_hand() -> None:
    """Two tokens of logits 0 and log 3: 1/4 and 3/4."""
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [math.log(3)]])
    found, right = linear_logprobs(hidden, weight, torch.tensor([0, 1]))
    torch.testing.assert_close(found.exp(), torch.tensor([0.25, 0.75]))
    assert right.tolist() == [False, True]
    assert linear_logprobs(hidden[:1], torch.zeros(4, 1), torch.tensor([2]))[1].item(), "none is more probable"


@pytest.mark.parametrize("chunk", [64, 1 << 24])
def test_a_tied_head_gets_both_gradients(chunk: int) -> None:
    _, weight, tokens, upstream = draw(9, 6, 20)
    found = []
    for head in (lambda h: linear_logprobs(h, weight, tokens, 1.0, chunk)[0], lambda h: whole(h, weight, tokens)[0]):
        found.append(grads(head(torch.tanh(F.embedding(tokens.flip(0), weight))), upstream, weight)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [64, 1 << 24])
def test_only_what_asks_for_a_gradient_gets_one(chunk: int) -> None:
    hidden, weight, tokens, upstream = draw(9, 6, 20)
    both = grads(linear_logprobs(hidden, weight, tokens, 1.0, chunk)[0], upstream, hidden, weight)
    frozen = linear_logprobs(hidden, weight.detach(), tokens, 1.0, chunk)[0]
    assert torch.equal(grads(frozen, upstream, hidden)[0], both[0])
    features = linear_logprobs(hidden.detach(), weight, tokens, 1.0, chunk)[0]
    assert torch.equal(grads(features, upstream, weight)[0], both[1])
    with torch.no_grad():
        found, right = linear_logprobs(hidden, weight, tokens, 1.0, chunk)
    assert not found.requires_grad
    assert not right.requires_grad


@pytest.mark.parametrize("chunk", [3000, 1 << 24])
def test_bf16_is_as_near_to_fp64_as_the_whole_head_is(chunk: int) -> None:
    hidden, weight, tokens, upstream = draw(64, 48, 300, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    oracle = whole(exact[0], exact[1], tokens)[0]
    expected = grads(oracle, upstream, *exact)
    gaps: dict[str, list[float]] = {}
    for name, found in (("chunks", linear_logprobs(hidden, weight, tokens, 1.0, chunk)[0]),
                        ("whole", whole(hidden, weight, tokens)[0])):  # fmt: skip
        parts = zip((found, *grads(found, upstream, hidden, weight)), (oracle, *expected), strict=True)
        gaps[name] = [((a.double() - b).norm() / b.norm()).item() for a, b in parts]
    for ours, theirs in zip(gaps["chunks"], gaps["whole"], strict=True):
        assert ours < 1.5 * theirs + 1e-4, gaps


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e30], [-1e30], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [1.0]], requires_grad=True)
    found, _ = linear_logprobs(hidden, weight, torch.tensor([0, 1, 1]))
    expected = torch.tensor([-math.log(2), 0.0, -1e4 - math.log(2)])
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert torch.isfinite(hidden.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("grad", [True, False])
def test_no_tensor_of_all_logits_is_ever_made(grad: bool) -> None:
    """200 positions of 500 tokens, at most 5,000 logits at a time; the gradient of the weight is V * D = 4,000."""
    hidden, weight, tokens, _ = draw(200, 8, 500, torch.bfloat16)
    with Sizes(5001) as seen, torch.set_grad_enabled(grad):
        found, _ = linear_logprobs(hidden, weight, tokens, 1.0, chunk=5000)
        if grad:
            found.sum().backward()
    assert not seen.seen


def test_what_does_not_fit_is_refused() -> None:
    hidden, weight, tokens, _ = draw(4, 3, 5)
    for arguments in ((hidden, weight[:, :2], tokens), (hidden, weight, tokens[:3]), (hidden[None], weight, tokens)):
        with pytest.raises(ShapeError, match=r"linear_logprobs: found hidden \[.*\], weight \[.*\], tokens \[.*\]"):
            linear_logprobs(*arguments)
    with pytest.raises(ValueError, match="temperature: found 0"):
        linear_logprobs(hidden, weight, tokens, 0.0)
    with pytest.raises(ValueError, match="chunk: found 0, expected at least 1"):
        linear_logprobs(hidden, weight, tokens, chunk=0)
