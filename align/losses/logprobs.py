"""Log-probability and entropy of the next token, without a second copy of the logits.

Logits are the largest tensor of a step (4096 x 32000 in fp32 is 0.5 GB a row). Plain autograd would hold an
fp32 copy, its exponentials and one-hot gradients beside them; here forward and backward walk over slices of
positions, and the only tensor of the logits' size that is made is their gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from align.errors import ShapeError
from align.losses.masked import full

# elements of a slice: on a CPU 4 MiB of fp32 stay in its cache, an accelerator needs enough to be kept busy
CHUNK = 1 << 20
ACCELERATOR_CHUNK = 1 << 25


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """``log softmax(logits / temperature)[tokens]``: the token under the sampling distribution.

    Args:
        logits: [B, T, V] (or any leading dims), any float dtype; ``logits[:, t]`` predicts ``tokens[:, t]``.
        tokens: [B, T] int64, each in [0, V).
        temperature: the one the tokens were sampled with; rollout, reference and update take the same.

    Returns:
        [B, T] fp32 (fp64 where ``logits`` is), nats, at most 0.

    Raises:
        ShapeError: ``tokens`` is not ``logits`` without its last dim.
        ValueError: temperature is not above 0.
    """
    check_logits("token_logprobs", logits, tokens=tokens)
    check_temperature(temperature)
    return masked_logprobs(logits, tokens, None, temperature)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``-sum p log p`` with ``p = softmax(logits / temperature)``.

    Args:
        logits: [B, T, V] (or any leading dims), any float dtype; -inf forbids a token.
        temperature: as in :func:`token_logprobs`.

    Returns:
        [B, T] fp32 (fp64 where ``logits`` is), nats, in [0, log V].

    Raises:
        ShapeError: ``logits`` has fewer than two dims.
        ValueError: temperature is not above 0.
    """
    check_logits("entropy", logits)
    check_temperature(temperature)
    return cast(Tensor, _Entropy.apply(logits, temperature))  # type: ignore[no-untyped-call]


def masked_logprobs(logits: Tensor, tokens: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """:func:`token_logprobs` without its checks, exactly 0 in value and gradient where the mask is False."""
    return cast(Tensor, _TokenLogprobs.apply(logits, tokens, mask, temperature))  # type: ignore[no-untyped-call]


def check_logits(function: str, logits: Tensor, **others: Tensor) -> None:
    """Refuse logits without a vocabulary dim, or others whose shape is not that of the positions."""
    if logits.dim() < 2 or any(other.shape != logits.shape[:-1] for other in others.values()):
        found = "".join(f", {name} {list(other.shape)}" for name, other in others.items())
        raise ShapeError(
            f"{function}: found logits {list(logits.shape)}{found}; expected logits [B, T, V] "
            "and the rest [B, T], nothing is broadcast"
        )


def check_temperature(temperature: float) -> None:
    """Refuse what is no sampling temperature; 0 is argmax, which has no log-probabilities."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: found {temperature}, expected a number above 0")


def _slices(logits: Tensor) -> Iterator[tuple[Any, ...]]:
    """Index slices over the positions dim, so that a view like ``logits[:, :-1]`` is never copied whole."""
    size = CHUNK if logits.device.type == "cpu" else ACCELERATOR_CHUNK
    width = max(1, size * logits.shape[-2] // max(1, logits.numel()))
    for start in range(0, logits.shape[-2], width):
        yield (..., slice(start, start + width))


def _scaled(logits: Tensor, at: tuple[Any, ...], temperature: float) -> Tensor:
    part = full(logits[(*at, slice(None))])
    return part if temperature == 1.0 else part / temperature


class _TokenLogprobs(torch.autograd.Function):
    """``(logits [..., V], tokens [...], mask [...] or None, temperature) -> log-probs [...]``.

    Where the mask is False neither logits nor token is looked at: value and gradient are exactly 0.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        """Slice by slice; saves the logits themselves, nothing of their size beside them."""
        if mask is not None:
            tokens = tokens.masked_fill(~mask, 0)  # -100 and the like are no index
        ctx.save_for_backward(logits, tokens, mask)
        ctx.temperature = temperature
        out = torch.empty(tokens.shape, dtype=full(logits[..., :0]).dtype, device=logits.device)
        for at in _slices(logits):
            logp = torch.log_softmax(_scaled(logits, at, temperature), dim=-1)
            out[at] = logp.gather(-1, tokens[at].unsqueeze(-1)).squeeze(-1)
        return out if mask is None else out.masked_fill_(~mask, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        """``d logp[y] / d logits = (onehot(y) - softmax(logits / T)) / T``."""
        logits, tokens, mask = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for at in _slices(logits):
            g = upstream[at].unsqueeze(-1) / ctx.temperature
            part = torch.softmax(_scaled(logits, at, ctx.temperature), dim=-1).mul_(-g)
            part.scatter_add_(-1, tokens[at].unsqueeze(-1), g)
            if mask is not None:
                part.masked_fill_(~mask[at].unsqueeze(-1), 0.0)
            grad[(*at, slice(None))] = part
        return grad, None, None, None


class _Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float) -> Tensor:
        out = torch.empty(logits.shape[:-1], dtype=full(logits[..., :0]).dtype, device=logits.device)
        for at in _slices(logits):
            p = torch.softmax(_scaled(logits, at, temperature), dim=-1)
            out[at] = torch.special.entr(p).sum(-1)  # entr(0) = 0, so -inf logits do no harm
        ctx.save_for_backward(logits, out)
        ctx.temperature = temperature
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """``dH / d logits = -p (log p + H) / T``."""
        logits, out = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for at in _slices(logits):
            logp = torch.log_softmax(_scaled(logits, at, ctx.temperature), dim=-1)
            logp.clamp_(min=torch.finfo(logp.dtype).min)  # 0 * -inf would be NaN
            part = logp.exp().mul_(logp + out[at].unsqueeze(-1))
            grad[(*at, slice(None))] = part.mul_(-upstream[at].unsqueeze(-1) / ctx.temperature)
        return grad, None
