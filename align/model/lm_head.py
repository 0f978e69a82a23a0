"""The language model's output head: logits, or the log-probs of given tokens without ever holding all logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from align.losses import linear_logprobs
from align.model.config import HEAD_CHUNK, HEAD_CHUNK_CPU


class LMHead(nn.Linear):
    """A linear layer without bias, [..., D] -> [..., V]."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__(dim, vocab_size, bias=False)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, temperature: float = 1.0) -> Any:
        """Logits, or what a loss needs of them. The weight is read here only, where ZeRO-3 has gathered it.

        Args:
            hidden: [..., D]; [N, D] with ``targets``.
            targets: [N] int64, the token that follows each position.
            temperature: of the log-probs.

        Returns:
            logits [..., V] in the weight's dtype; or, with ``targets``, their log-probs [N] fp32, nats, and [N] bool,
            whether no token is more probable.
        """
        if targets is None:
            return super().forward(hidden)
        chunk = HEAD_CHUNK_CPU if hidden.device.type == "cpu" else HEAD_CHUNK
        return linear_logprobs(hidden, self.weight, targets, temperature, chunk)
