"""Who waits and who runs: the queue of requests and the table of slots that decode together.

The table's state is one integer tensor, a column a slot, so that a step is tensor operations on all slots at
once and an admission is one assignment. Drawn tokens go to a ring, a line a step; an answer is read out once,
when it is done. What is cached where is the decoder's own affair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from align.model.randomness import key, uniforms
from align.records import Request
from align.rollout.backend import SamplingConfig, room
from align.rollout.draw import draw

TOKEN, POSITION, KEY, END, ALIVE = range(5)  # lines of the state
MULTIPLE = 32  # of prefilled and cached lengths, in which they are computed
LEAST = 8  # columns that a table has: matrix products of very few rows round otherwise
NOTHING = -1  # no token


def round_up(length: int, multiple: int = MULTIPLE) -> int:
    """The least multiple that is not smaller."""
    return -(-length // multiple) * multiple


class Decoder(Protocol):
    """A policy with the cached keys and values of one call's prompts and answers."""

    @property
    def room(self) -> int:
        """Prompts that may be prefilled now."""
        ...

    def prefill(self, prompts: Sequence[tuple[int, ...]], samples: Sequence[int]) -> list[int]:
        """Cache prompts, less each one's last token, which the first step reads.

        Args:
            prompts: encoded; at most ``room``.
            samples: answers that each will have, after which its row is free again.

        Returns:
            The row of each prompt.
        """
        ...

    def admit(self, column: int, row: int) -> None:
        """Let an answer to the row's prompt begin in a free column."""
        ...

    def release(self, column: int) -> None:
        """The column's answer is done."""
        ...

    def keep(self, columns: Sequence[int]) -> None:
        """Go on with these columns only, in this order; no answer runs in the others."""
        ...

    def logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Cache a token of every answer and tell what may follow it.

        Args:
            tokens: [B] int64.
            positions: [B] int64, each one more than in the step before; 0 in idle columns.

        Returns:
            fp32 [B, V].
        """
        ...


class Waiting:
    """Requests not yet running: samples of a prompt together, prompts longest first, so that little is padded."""

    def __init__(self, requests: Sequence[Request]) -> None:
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(request.tokens, []).append(index)
        self._groups = deque(sorted(groups.items(), key=lambda group: -len(group[0])))
        self.prompts = len(groups)
        self.ready: deque[tuple[int, int]] = deque()  # request, the row that holds its prompt

    def __bool__(self) -> bool:
        return bool(self.ready or self._groups)

    def stage(self, decoder: Decoder, budget: int) -> None:
        """Prefill the next prompts, longest first: of one rounded length, ``budget`` tokens at most, or one prompt."""
        width = round_up(len(self._groups[0][0]) - 1)
        most = min(decoder.room, max(1, budget // max(1, width)))
        picked: list[tuple[tuple[int, ...], list[int]]] = []
        while self._groups and len(picked) < most and round_up(len(self._groups[0][0]) - 1) == width:
            picked.append(self._groups.popleft())
        rows = decoder.prefill([tokens for tokens, _ in picked], [len(indices) for _, indices in picked])
        for row, (_, indices) in zip(rows, picked, strict=True):
            self.ready.extend((index, row) for index in indices)

    def take(self, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` requests whose prompts are cached."""
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
        decoder: Decoder,
        stops: Sequence[int],
        sampling: SamplingConfig,
        *,
        slots: int,
        columns: int,
        max_len: int,
        device: torch.device,
    ) -> None:
        self.decoder, self.sampling, self.max_len = decoder, sampling, max_len
        self.stops = torch.tensor([*stops, *(stop[0] for stop in sampling.stop if len(stop) == 1)], device=device)
        self.phrases = _phrases(sampling, device)
        self.state = torch.zeros(5, columns, dtype=torch.int64, device=device)
        self.said = torch.full((self.phrases.shape[1], columns), NOTHING, device=device)  # last tokens, latest last
        ring = (sampling.max_new_tokens, columns)
        self.tokens = torch.zeros(ring, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(ring, device=device)
        self.steps = 0
        self.free = list(range(slots))
        self.running: dict[int, tuple[int, int]] = {}  # column: request, first step

    def admit(self, ready: Sequence[tuple[int, int]], requests: Sequence[Request]) -> None:
        """Give free slots to requests whose prompts are cached in rows."""
        columns = [self.free.pop() for _ in ready]
        states = []
        for column, (index, row) in zip(columns, ready, strict=True):
            request = requests[index]
            length = len(request.tokens)
            address = key(request.seed, request.step, request.prompt, request.sample)
            end = length + room(request, self.sampling, self.max_len) - 1
            states.append((request.tokens[-1], length - 1, address, end, 1))
            self.running[column] = (index, self.steps)
            self.decoder.admit(column, row)
        device = self.state.device
        into = torch.tensor(columns, device=device)
        self.state[:, into] = torch.tensor(states, device=device).T
        self.said[:, into] = NOTHING

    def step(self, last: bool) -> list[Done]:
        """One token for every slot; the answers that are now done. ``last``: nobody waits for free slots."""
        if last and round_up(len(self.running), LEAST) < self.state.shape[1]:
            self._close_ranks()
        state = self.state
        logits = self.decoder.logits(state[TOKEN], state[POSITION])
        state[POSITION] += state[ALIVE]
        tokens, logprobs = draw(logits, uniforms(state[KEY], state[POSITION]), self.sampling)
        state[TOKEN] = tokens
        line = self.steps % len(self.tokens)
        self.tokens[line], self.logprobs[line] = tokens, logprobs
        stopped = (tokens[:, None] == self.stops).any(-1)
        if len(self.phrases):
            stopped |= self._said_a_phrase(tokens)
        done = (stopped | (state[POSITION] >= state[END])) & (state[ALIVE] == 1)
        self.steps += 1
        return self._read_out(done, stopped) if done.any() else []

    def _said_a_phrase(self, tokens: Tensor) -> Tensor:
        """[B] bool: the answer's last tokens, this one included, are one of the stop sequences."""
        self.said = torch.cat((self.said[1:], tokens[None]))
        same = (self.said.T[:, None] == self.phrases) | (self.phrases == NOTHING)
        return same.all(-1).any(-1)

    def _read_out(self, done: Tensor, stopped: Tensor) -> list[Done]:
        """Finished answers; their slots become free."""
        which = done.nonzero()[:, 0]
        columns = which.tolist()
        tokens, logprobs = self.tokens[:, which].T.tolist(), self.logprobs[:, which].T.tolist()
        finished = []
        for column, drawn, weights, stop in zip(columns, tokens, logprobs, stopped[which].tolist(), strict=True):
            request, first = self.running.pop(column)
            lines = [step % len(self.tokens) for step in range(first, self.steps)]
            answer, logs = tuple(drawn[line] for line in lines), tuple(weights[line] for line in lines)
            finished.append(Done(request, answer, logs, stop))
            self.decoder.release(column)
        self.free += columns
        self.state[:, which] = 0
        return finished

    def _close_ranks(self) -> None:
        """Move the running answers to the front and drop idle columns: the end of a job decodes few rows."""
        columns = round_up(len(self.running), LEAST)
        idle = (column for column in range(self.state.shape[1]) if column not in self.running)
        kept = sorted(self.running)
        kept += [next(idle) for _ in range(columns - len(kept))]
        front = torch.tensor(kept, device=self.state.device)
        self.decoder.keep(kept)
        self.state, self.said = self.state[:, front], self.said[:, front]
        self.tokens, self.logprobs = self.tokens[:, front], self.logprobs[:, front]
        self.running = {place: self.running[column] for place, column in enumerate(kept) if column in self.running}
        self.free = []


def _phrases(sampling: SamplingConfig, device: torch.device) -> Tensor:
    """[Q, longest] the stop sequences of several tokens, filled up with nothing on the left."""
    phrases = [stop for stop in sampling.stop if len(stop) > 1]
    longest = max((len(phrase) for phrase in phrases), default=0)
    rows = [[*[NOTHING] * (longest - len(phrase)), *phrase] for phrase in phrases]
    return torch.tensor(rows, dtype=torch.int64, device=device).view(len(phrases), longest)
