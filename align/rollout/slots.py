"""Who waits and who runs: the queue of requests and the table of slots that decode together.

The table's state is one integer tensor, a column a slot, so that a step is tensor operations on all slots at
once and an admission is one assignment. Drawn tokens go to a ring, a line a step; an answer is read out once,
when it is done.

An answer hardly depends on what runs beside it: CPU kernels of matrix products and attention take other paths,
which round otherwise, where a matrix has fewer than four rows a thread or a length is no multiple of 16. So neither
happens here: the table has idle columns where few answers run, and lengths are rounded up. What remains is about
1e-6 nats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch

from align.model.llama import KVCache, Llama
from align.model.randomness import key, uniforms
from align.records import Request
from align.rollout.backend import SamplingConfig, room
from align.rollout.draw import draw

TOKEN, POSITION, KEY, END, ALIVE = range(5)  # lines of the state
MULTIPLE = 16  # of prefilled and attended lengths
ROWS_A_THREAD = 4  # at least, in a matrix product


def least_rows() -> int:
    """Columns that a table has at least."""
    return max(8, ROWS_A_THREAD * torch.get_num_threads())


def round_up(length: int) -> int:
    """A length as it is computed."""
    return -(-length // MULTIPLE) * MULTIPLE


class Waiting:
    """Requests not yet running: samples of a prompt together, prompts longest first, so that little is padded."""

    def __init__(self, requests: Sequence[Request]) -> None:
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(request.tokens, []).append(index)
        self._groups = deque(sorted(groups.items(), key=lambda group: -len(group[0])))
        self.prompts = len(groups)
        self.ready: deque[tuple[int, int]] = deque()  # request, the staging row that holds its prompt

    def __bool__(self) -> bool:
        return bool(self.ready or self._groups)

    def stage(self, rows: range, budget: int) -> list[tuple[int, ...]]:
        """The next prompts, longest first, one a row: at most ``budget`` tokens with padding, or one prompt."""
        width = max(1, len(self._groups[0][0]))
        count = min(len(rows), len(self._groups), max(1, budget // width))
        picked = [self._groups.popleft() for _ in range(count)]
        for row, (_, indices) in zip(rows, picked, strict=False):
            self.ready.extend((index, row) for index in indices)
        return [tokens for tokens, _ in picked]

    def take(self, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` requests whose prompts are staged."""
        return [self.ready.popleft() for _ in range(min(count, len(self.ready)))]


class Done(NamedTuple):
    """A finished answer."""

    request: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool


class Slots:
    """Answers under way, a column each; idle columns compute what nobody reads, at position 0."""

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        stops: tuple[int, ...],
        sampling: SamplingConfig,
        *,
        slots: int,
        columns: int,
        max_len: int,
    ) -> None:
        device = cache.k.device
        self.model, self.cache, self.sampling, self.max_len = model, cache, sampling, max_len
        self.stops = torch.tensor(stops, device=device)
        self.state = torch.zeros(5, columns, dtype=torch.int64, device=device)
        ring = (sampling.max_new_tokens, columns)
        self.tokens = torch.zeros(ring, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(ring, device=device)
        self.steps = 0
        self.free = list(range(slots))
        self.running: dict[int, tuple[int, int, int]] = {}  # slot: request, first step, position - step

    def admit(self, ready: Sequence[tuple[int, int]], requests: Sequence[Request]) -> None:
        """Give free slots to requests: copy each one's prompt from its staging row, set its state."""
        slots = [self.free.pop() for _ in ready]
        columns = []
        for slot, (index, _) in zip(slots, ready, strict=True):
            request = requests[index]
            length = len(request.tokens)
            address = key(request.seed, request.step, request.prompt, request.sample)
            end = length + room(request, self.sampling, self.max_len) - 1
            columns.append((request.tokens[-1], length - 1, address, end, 1))
            self.running[slot] = (index, self.steps, length - 1 - self.steps)
        device = self.state.device
        into = torch.tensor(slots, device=device)
        self.state[:, into] = torch.tensor(columns, device=device).T
        width = max(len(requests[index].tokens) for index, _ in ready) - 1
        self._copy(into, torch.tensor([row for _, row in ready], device=device), width)

    def step(self, last: bool) -> list[Done]:
        """One token for every slot; the answers that are now done. ``last``: nobody waits for free slots."""
        if last and max(len(self.running), least_rows()) <= self.state.shape[1] // 2:
            self._close_ranks()
        state, cache = self.state, self.cache
        longest = self.steps + max(offset for _, _, offset in self.running.values()) + 1
        cache.length = round_up(longest)
        logits = self.model(state[TOKEN, :, None], state[POSITION, :, None], cache=cache)[:, 0]
        state[POSITION] += state[ALIVE]
        tokens, logprobs = draw(logits, uniforms(state[KEY], state[POSITION]), self.sampling)
        state[TOKEN] = tokens
        line = self.steps % len(self.tokens)
        self.tokens[line], self.logprobs[line] = tokens, logprobs
        stopped = (tokens[:, None] == self.stops).any(-1)
        done = (stopped | (state[POSITION] >= state[END])) & (state[ALIVE] == 1)
        self.steps += 1
        return self._read_out(done, stopped) if done.any() else []

    def _read_out(self, done: torch.Tensor, stopped: torch.Tensor) -> list[Done]:
        """Finished answers; their slots become free."""
        which = done.nonzero()[:, 0]
        slots = which.tolist()
        tokens, logprobs = self.tokens[:, which].T.tolist(), self.logprobs[:, which].T.tolist()
        finished = []
        for slot, drawn, weights, stop in zip(slots, tokens, logprobs, stopped[which].tolist(), strict=True):
            request, first, _ = self.running.pop(slot)
            lines = [step % len(self.tokens) for step in range(first, self.steps)]
            answer, logs = tuple(drawn[line] for line in lines), tuple(weights[line] for line in lines)
            finished.append(Done(request, answer, logs, stop))
        self.free += slots
        self.state[:, which] = 0
        return finished

    def _close_ranks(self) -> None:
        """Move the running slots to the front and drop idle ones: the end of a job decodes few rows."""
        columns = max(len(self.running), least_rows())
        idle = (slot for slot in range(self.state.shape[1]) if slot not in self.running)
        kept = sorted(self.running) + [next(idle) for _ in range(columns - len(self.running))]
        front = torch.tensor(kept, device=self.state.device)
        length = self.steps + max(offset for _, _, offset in self.running.values())
        self._copy(torch.arange(columns, device=self.state.device), front, length)
        self.state = self.state[:, front]
        self.tokens, self.logprobs = self.tokens[:, front], self.logprobs[:, front]
        self.running = {place: self.running[slot] for place, slot in enumerate(kept) if slot in self.running}
        self.free = []

    def _copy(self, into: torch.Tensor, source: torch.Tensor, length: int) -> None:
        """Copy the first ``length`` cached positions of rows."""
        for held in (self.cache.k, self.cache.v):
            held[:, into, :, :length] = held[:, source, :, :length]
