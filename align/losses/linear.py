"""Log-probability of the next token straight from hidden states: the output head and the softmax in one, in chunks.

The logits of a batch, [N, V], are the largest tensor of a step, and all that a loss needs of them is one number a
position. Here they exist a chunk of positions at a time. What the backward needs of the first chunk is kept, so that
a small batch is computed once only; the logits of further chunks are computed again (one matrix product in four).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from align.errors import ShapeError
from align.losses.logprobs import CHUNK as SLICE
from align.losses.logprobs import check_temperature
from align.losses.masked import full

CHUNK = 1 << 24  # logits held at a time


def linear_logprobs(
    hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float = 1.0, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """``log softmax(hidden @ weightᵀ / temperature)[tokens]``, without the logits of all positions at once.

    Equal to :func:`align.losses.token_logprobs` of the whole head's logits, in value and in gradient.

    Args:
        hidden: [N, D], any float dtype.
        weight: [V, D], of the output head, same dtype.
        tokens: [N] int64, each in [0, V); ``hidden[n]`` predicts ``tokens[n]``.
        temperature: the one the tokens were sampled with.
        chunk: logits that are held at a time, at least those of one position.

    Returns:
        log-probs [N] fp32 (fp64 where ``hidden`` is), nats, and [N] bool, whether no token is more probable.

    Raises:
        ShapeError: shapes do not fit one another.
        ValueError: temperature is not above 0, or chunk is not.
    """
    shapes = hidden.dim() == 2 and weight.dim() == 2 and hidden.shape[1:] == weight.shape[1:]
    if not shapes or tokens.shape != hidden.shape[:1]:
        raise ShapeError(
            f"linear_logprobs: found hidden {list(hidden.shape)}, weight {list(weight.shape)}, "
            f"tokens {list(tokens.shape)}; expected [N, D], [V, D] and [N]"
        )
    check_temperature(temperature)
    if chunk < 1:
        raise ValueError(f"chunk: found {chunk}, expected at least 1")
    keep = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    found = _LinearLogprobs.apply(hidden, weight, tokens, temperature, chunk, keep)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor]", found)


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, chunk: int, keep: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(tokens.shape, dtype=full(hidden[:0]).dtype, device=hidden.device)
        right = torch.empty(tokens.shape, dtype=torch.bool, device=hidden.device)
        kept = None
        for at in _slices(len(tokens), weight.shape[0], chunk):
            logits = hidden[at] @ weight.t()
            kept = logits if keep and at.start == 0 else kept
            for part in _slices(len(logits), logits.shape[1], SLICE if logits.device.type == "cpu" else chunk):
                here = slice(at.start + part.start, at.start + part.stop)
                probs, logprobs[here], right[here] = _softmax(logits[part], tokens[here], temperature)
                if kept is logits:
                    logits[part] = _error(probs, tokens[here])
        ctx.save_for_backward(hidden, weight, tokens, kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(right)
        return logprobs, right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """``d logp[y] / d logits = (onehot(y) - softmax) / T``, its rows scaled on the narrow side of the products."""
        hidden, weight, tokens, kept = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        chunks = list(_slices(len(tokens), weight.shape[0], ctx.chunk))
        hidden_grad = torch.empty_like(hidden) if to_hidden else None
        # summed in full precision where there are several summands
        weight_grad = torch.zeros_like(weight, dtype=full(weight[:0]).dtype) if to_weight and len(chunks) != 1 else None
        scale = (upstream / -ctx.temperature).unsqueeze(1)
        for at in chunks:
            error = kept if at.start == 0 else _errors(hidden[at] @ weight.t(), tokens[at], ctx.temperature)
            if hidden_grad is not None:
                hidden_grad[at] = (error @ weight) * scale[at]
            if to_weight:
                part = error.t() @ (hidden[at] * scale[at]).to(hidden.dtype)
                weight_grad = part if weight_grad is None else weight_grad.add_(part)
        whole = None if weight_grad is None else weight_grad.to(weight.dtype)
        return hidden_grad, whole, None, None, None, None


def _softmax(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, the tokens' log-probs and whether no token is more probable, of some positions.

    With z the logits and m the place of the largest: log p[y] = z[y] - z[m] + log p[m], and p[m] is never tiny.
    """
    scaled = full(logits) if temperature == 1.0 else full(logits) / temperature
    probs = torch.softmax(scaled, dim=-1)
    most, own = scaled.amax(-1), scaled.gather(1, tokens.unsqueeze(1)).squeeze(1)
    return probs, own - most + probs.amax(-1).log_(), own == most


def _error(probs: Tensor, tokens: Tensor) -> Tensor:
    """``softmax - onehot``, in place."""
    return probs.scatter_add_(1, tokens.unsqueeze(1), probs.new_full((len(tokens), 1), -1.0))


def _errors(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """``softmax(logits / T) - onehot`` in place of the logits."""
    for part in _slices(len(logits), logits.shape[1], SLICE if logits.device.type == "cpu" else logits.numel()):
        scaled = full(logits[part]) if temperature == 1.0 else full(logits[part]) / temperature
        logits[part] = _error(torch.softmax(scaled, dim=-1), tokens[part])
    return logits


def _slices(length: int, width: int, size: int) -> Iterator[slice]:
    """Runs of positions of at most ``size`` elements each, or of one position."""
    step = max(1, size // width)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
