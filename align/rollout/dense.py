"""Decoding on a GPU: a row of the cache for each answer, fused attention, the step captured as a CUDA graph.

A prompt is prefilled once into a staging row and copied to its answers' rows; on a GPU that copy is nothing
beside a step, and rows of one shape are what a graph can replay. A graph is captured for each number of columns
and each attended length, rounded up, and replayed on the tensors it was captured with: one launch a step in
place of some hundred.

Dims: B columns, T tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from align.model.llama import KVCache, Llama
from align.rollout.slots import round_up

ATTENDED = 128  # multiple to which attended lengths are rounded up: so many graphs are captured


class Dense:
    """A :class:`~align.rollout.slots.Decoder` of cache rows that all attend to one length."""

    def __init__(self, model: Llama, columns: int, rows: int, prompt: int, answer: int) -> None:
        """Make room, as :class:`~align.rollout.paged.Paged` does. Without CUDA nothing is captured."""
        parameter = next(model.parameters())
        length = round_up(prompt + answer, ATTENDED)
        dtype = torch.float32 if parameter.device.type == "cpu" else parameter.dtype  # CPU: see KVCache
        self.model, self.device = model, parameter.device
        self.cache = KVCache(model.config, columns + rows, length, dtype, parameter.device)
        self.columns = columns
        self.free_rows = list(range(columns, columns + rows))
        self.lengths, self.wanted = [0] * (columns + rows), [0] * (columns + rows)
        self.row_of: dict[int, int] = {}
        self.ends: dict[int, int] = {}  # column -> cached tokens, before this step
        self.copies: list[tuple[int, int]] = []  # row, column: admitted since the last step
        self.graphs: dict[tuple[int, int], _Graph] = {}

    @property
    def room(self) -> int:
        """Prompts that may be prefilled now."""
        return len(self.free_rows)

    def prefill(self, prompts: Sequence[tuple[int, ...]], samples: Sequence[int]) -> list[int]:
        """Cache prompts, less each one's last token; see :class:`~align.rollout.slots.Decoder`."""
        rows = [heapq.heappop(self.free_rows) for _ in prompts]
        for row, prompt, count in zip(rows, prompts, samples, strict=True):
            self.lengths[row], self.wanted[row] = len(prompt) - 1, count
        width = min(round_up(max(len(prompt) for prompt in prompts) - 1), self.model.config.max_seq_len)
        if width:
            tokens = torch.tensor([[*p[:-1], *[0] * (width + 1 - len(p))] for p in prompts], device=self.device)
            self.cache.rows = torch.tensor(rows, device=self.device)
            # padding on the right writes keys that the row's own tokens overwrite before anything attends to them
            self.model.model(tokens, cache=self.cache)
            self.cache.rows = None
        return rows

    def admit(self, column: int, row: int) -> None:
        """Let an answer to the row's prompt begin in a free column."""
        self.row_of[column], self.ends[column] = row, self.lengths[row]
        self.copies.append((row, column))

    def release(self, column: int) -> None:
        """The column's answer is done."""
        row = self.row_of.pop(column)
        del self.ends[column]
        self.wanted[row] -= 1
        if self.wanted[row] == 0:
            heapq.heappush(self.free_rows, row)

    def keep(self, columns: Sequence[int]) -> None:
        """Go on with these columns only, in this order; no answer runs in the others."""
        source = torch.tensor(columns, device=self.device)
        self._copy(source, torch.arange(len(columns), device=self.device), max(self.ends.values()))
        place = {column: index for index, column in enumerate(columns)}
        self.row_of = {place[column]: row for column, row in self.row_of.items()}
        self.ends = {place[column]: end for column, end in self.ends.items()}

    def logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Cache a token of every answer and tell what may follow it: [B] and [B] -> fp32 [B, V]."""
        if self.copies:
            rows, columns = torch.tensor(self.copies, device=self.device).T
            self._copy(rows, columns, max(self.lengths[row] for row, _ in self.copies))
            self.copies.clear()
        longest = 1 + max(self.ends.values())
        self.ends = {column: end + 1 for column, end in self.ends.items()}
        length = min(round_up(longest, ATTENDED), self.cache.slots)
        if self.device.type != "cuda":
            return self._forward(tokens, positions, length)
        held = self.graphs.get((len(tokens), length))
        if held is None:
            held = self.graphs[len(tokens), length] = _Graph(self, len(tokens), length)
        return held.replay(tokens, positions)

    def _forward(self, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        self.cache.length = length
        logits: Tensor = self.model(tokens[:, None], positions[:, None], cache=self.cache)
        return logits[:, 0]

    def _copy(self, source: Tensor, into: Tensor, length: int) -> None:
        """Copy the first ``length`` cached positions of rows."""
        for held in (self.cache.k, self.cache.v):
            held[:, into, :, :length] = held[:, source, :, :length]


class _Graph:
    """One decode step, captured with its own input and output tensors."""

    def __init__(self, decoder: Dense, columns: int, length: int) -> None:
        self.tokens = torch.zeros(columns, dtype=torch.int64, device=decoder.device)
        self.positions = torch.zeros_like(self.tokens)
        kept = decoder.cache.k[:, :columns, :, :1].clone(), decoder.cache.v[:, :columns, :, :1].clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are chosen and workspaces made before the capture
            for _ in range(3):
                decoder._forward(self.tokens, self.positions, length)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = decoder._forward(self.tokens, self.positions, length)
        # the rehearsals wrote position 0 of every row
        decoder.cache.k[:, :columns, :, :1], decoder.cache.v[:, :columns, :, :1] = kept

    def replay(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The step on these tokens: [B] and [B] -> fp32 [B, V], good until the next replay."""
        self.tokens.copy_(tokens)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.logits
