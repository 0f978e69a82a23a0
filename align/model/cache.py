"""The keys and values of past tokens, for sampling.

Dims: L layers, B rows, K key/value heads, T tokens, S cached slots, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.model.config import LlamaConfig


class KVCache:
    """Keys and values of every layer, allocated once. A row is one sequence; rows know nothing of each other.

    A token's key is written at the slot of its position, and a token attends to the slots up to its own. So a
    row is reused by writing from position 0 again: nothing needs clearing, older slots beyond are unseen.
    Slot S, one past the last, takes the keys of padding.

    On CPU fp32 suits models of either dtype: PyTorch's attention to a bf16 cache is up to six times slower.
    """

    def __init__(
        self,
        config: LlamaConfig,
        rows: int,
        slots: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layers, rows, config.n_kv_heads, slots + 1, config.head_dim)
        # zeros, not empty: a masked slot weighs 0, and 0 times a stray NaN would be NaN
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        self.slots = slots
        self.rows: Tensor | None = None  # [B] int64, the cache rows of the batch's rows; None: the first B
        self.length: int | None = None  # slots attended, > every position of the batch; None: looked up each forward

    def write(self, layer: int, k: Tensor, v: Tensor, rows: Tensor, slots: Tensor) -> None:
        """Put k and v [B, T, K, E] of a layer at ``rows`` [B, 1] and ``slots`` [B or 1, T]."""
        self.k[layer][rows, :, slots] = k.to(self.k.dtype)
        self.v[layer][rows, :, slots] = v.to(self.v.dtype)

    def read(self, layer: int, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, length, E] of a layer; a view unless ``rows`` chooses among the rows."""
        k, v = self.k[layer, :, :, :length], self.v[layer, :, :, :length]
        if self.rows is None:
            return k[:batch], v[:batch]
        return k[self.rows], v[self.rows]
