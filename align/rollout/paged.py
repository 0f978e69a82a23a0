"""Decoding on a CPU: prompts cached once for all their samples, answers in pages, so that nothing is copied on refill.

A prompt's keys and values lie in a row of the prompt cache, which its samples attend to together: one product of
matrices instead of as many of vectors. An answer's lie in pages of 32 tokens, given as it grows and taken back
when it is done, so that a short answer beside a long one costs what it is long. Scores of both are laid out per
answer for one softmax, and laid back.

An answer is the same to the bit whatever runs beside it: every product here gives a row the same result however
many rows there are, from four on; each page is a product of its own; prompts are prefilled beside prompts of
their own rounded length; and a masked score weighs 0, which changes no sum.

Dims: B columns (answers under way and idle ones), H query heads, K key/value heads, G = H / K, E head width,
R prompt rows, C answers of a prompt, P prompt positions, N pages, S tokens a page, W pages an answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from align.model.llama import Llama
from align.rollout.packed import Packed
from align.rollout.slots import MULTIPLE, round_up

PAGE = MULTIPLE  # tokens
IDLE = -1
LEAST = 4  # answers of a prompt that are computed, at least: products of fewer rows round otherwise


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of this step lies: made anew when an answer comes, goes or turns a page."""

    rows: int  # R
    width: int  # P, a multiple of S; 0: no prompt has anything cached
    pages: int  # N
    blocks: int  # of S scores that an answer's softmax has: P / S + W
    own: Tensor  # [N] column of each page, B where none
    number: Tensor  # [N] which of its answer's pages it is
    page: Tensor  # [B] page written now
    unseen: Tensor  # [R K, 1, P] 0 or -inf: what lies beyond each prompt
    ask_prompt: Tensor  # [R K C G] rows of [B H, E] queries
    ask_page: Tensor  # [N K G]
    score_prompt: Tensor  # [R K C G P / S] blocks of [(B + 1) H blocks, S] scores
    score_page: Tensor  # [N K G]
    value_prompt: Tensor  # [R K C G] rows of [(B + 1) (1 + W) H, E] mixed values
    value_page: Tensor  # [N K G]
    scores: Tensor  # [(B + 1) H blocks, S], -inf where nothing is written
    values: Tensor  # [(B + 1) (1 + W) H, E], 0 where nothing is written


class Paged:
    """Prompts and answers of one call, and the step that gives every answer its next token's logits."""

    def __init__(self, model: Llama, columns: int, rows: int, prompt: int, answer: int) -> None:
        """Make room.

        Args:
            model: the policy, on a CPU.
            columns: B, answers under way at once, at most.
            rows: prompts cached at once.
            prompt: tokens of the longest prompt.
            answer: new tokens of the longest answer.
        """
        config = model.config
        self.packed, self.config = Packed(model), config
        self.longest = max(1, -(-answer // PAGE))  # W at most
        pages = 1 + columns * self.longest  # page 0 takes what idle columns write
        K, E = config.n_kv_heads, config.head_dim
        self.prompts = torch.zeros(config.n_layers, 2, rows, K, round_up(max(prompt - 1, 1)), E)
        self.pages = torch.zeros(config.n_layers, 2 * pages * K * PAGE, E)
        self.total = pages
        self.free_rows, self.free_pages = list(range(rows)), list(range(1, pages))
        self.lengths = [0] * rows  # cached tokens
        self.wanted = [0] * rows  # samples of the row's prompt that are not done
        self.members: dict[int, list[int]] = {}  # row -> columns
        self.row_of = [IDLE] * columns
        self.pages_of: list[list[int]] = [[] for _ in range(columns)]
        self.own, self.number = [IDLE] * pages, [0] * pages  # a page's column, and which of its pages it is
        self.start = torch.zeros(columns, dtype=torch.int64)  # position of an answer's first cached token
        blocks = self.prompts.shape[4] // PAGE + self.longest
        self._scores = torch.empty((columns + 1) * config.n_heads * blocks * PAGE)
        self._values = torch.empty((columns + 1) * (1 + self.longest) * config.n_heads * E)
        self.places: Places | None = None

    @property
    def room(self) -> int:
        """Prompts that may be prefilled now."""
        return len(self.free_rows)

    def prefill(self, prompts: Sequence[tuple[int, ...]], samples: Sequence[int]) -> list[int]:
        """Cache prompts, less each one's last token, which the first step reads.

        Args:
            prompts: encoded; at most ``room``.
            samples: answers that each will have, after which its row is free again.

        Returns:
            The row of each prompt.
        """
        rows = [heapq.heappop(self.free_rows) for _ in prompts]
        for row, prompt, count in zip(rows, prompts, samples, strict=True):
            self.lengths[row], self.wanted[row] = len(prompt) - 1, count
        width = round_up(max(len(prompt) for prompt in prompts) - 1)
        if width == 0:
            return rows
        tokens = torch.tensor([[*p[:-1], *[0] * (width + 1 - len(p))] for p in prompts])
        packed, config, into = self.packed, self.config, torch.tensor(rows)
        H, K = config.n_heads, config.n_kv_heads
        turns = packed.turns[torch.arange(width).clamp_(max=config.max_seq_len - 1)].repeat(len(prompts), 1)[:, None]
        x = F.embedding(tokens.flatten(), packed.embedding)
        for number, layer in enumerate(packed.layers):
            found = packed.qkv(layer, x, turns).view(len(prompts), width, -1, config.head_dim).transpose(1, 2)
            q, k, v = found[:, :H], found[:, H : H + K], found[:, H + K :]
            # padding on the right is cached too, and never looked at
            self.prompts[number, 0, into, :, :width] = k
            self.prompts[number, 1, into, :, :width] = v
            if number + 1 == len(packed.layers):
                break
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != K)
            x = packed.rest(layer, x, mixed.transpose(1, 2).reshape(len(x), -1))
        return rows

    def admit(self, column: int, row: int) -> None:
        """Let an answer to the row's prompt begin in a free column."""
        self.row_of[column] = row
        self.start[column] = self.lengths[row]
        self.members.setdefault(row, []).append(column)

    def release(self, column: int) -> None:
        """The column's answer is done."""
        row = self.row_of[column]
        self.members[row].remove(column)
        if not self.members[row]:
            del self.members[row]
        self.wanted[row] -= 1
        if self.wanted[row] == 0:
            heapq.heappush(self.free_rows, row)
        for page in self.pages_of[column]:
            heapq.heappush(self.free_pages, page)
            self.own[page], self.number[page] = IDLE, 0
        self.row_of[column], self.pages_of[column] = IDLE, []
        self.start[column] = 0
        self.places = None

    def keep(self, columns: Sequence[int]) -> None:
        """Go on with these columns only, in this order; no answer runs in the others."""
        place = {column: index for index, column in enumerate(columns)}
        self.row_of = [self.row_of[column] for column in columns]
        self.pages_of = [self.pages_of[column] for column in columns]
        self.start = self.start[torch.tensor(columns)]
        self.members = {row: [place[column] for column in held] for row, held in self.members.items()}
        self.own = [place.get(column, IDLE) for column in self.own]
        self.places = None

    def logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Cache a token of every answer and tell what may follow it.

        Args:
            tokens: [B] int64.
            positions: [B] int64, each one more than in the step before.

        Returns:
            fp32 [B, V].
        """
        into = positions - self.start
        self._turn_pages(into)
        if self.places is None:
            self.places = self._lay_out()
        at, packed, config = self.places, self.packed, self.config
        K, E = config.n_kv_heads, config.head_dim
        written = (at.page[:, None, None] + torch.tensor([[0], [self.total]])) * K + torch.arange(K)
        written = (written * PAGE + (into % PAGE)[:, None, None]).flatten()  # [B 2 K] rows of a layer's pages
        seen = F.pad(into, (0, 1))[at.own] - at.number * PAGE
        unseen = torch.zeros(at.pages, PAGE).masked_fill_(torch.arange(PAGE) > seen[:, None], -torch.inf)
        unseen = unseen.repeat_interleave(K, 0)[:, None]  # [N K, 1, S]
        turns = packed.turns[positions][:, None]
        x = F.embedding(tokens, packed.embedding)
        for number, layer in enumerate(packed.layers):
            found = packed.qkv(layer, x, turns)
            self.pages[number].index_copy_(0, written, found[:, config.n_heads :].reshape(-1, E))
            mixed = self._attend(number, found[:, : config.n_heads].reshape(-1, E), unseen, at)
            x = packed.rest(layer, x, mixed[: len(x)])
        return packed.logits(x)

    def _attend(self, layer: int, q: Tensor, unseen: Tensor, at: Places) -> Tensor:
        """Queries [B H, E] -> mixed values [B + 1, H E], each over its prompt and its answer so far."""
        H, K, E = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        G, N, scale = H // K, at.pages, E**-0.5
        keys, values = self.pages[layer].view(2, self.total * K, PAGE, E)[:, : N * K]
        asked = q.index_select(0, at.ask_page).view(N * K, G, E)
        scores = torch.baddbmm(unseen.expand(-1, G, -1), asked, keys.transpose(1, 2), alpha=scale)
        at.scores.index_copy_(0, at.score_page, scores.view(-1, PAGE))
        if at.width:
            held = self.prompts[layer, :, : at.rows, :, : at.width].flatten(1, 2)  # [2, R K, P, E]
            asked = q.index_select(0, at.ask_prompt).view(at.rows * K, -1, E)
            scores = torch.baddbmm(
                at.unseen.expand(-1, asked.shape[1], -1), asked, held[0].transpose(1, 2), alpha=scale
            )
            at.scores.index_copy_(0, at.score_prompt, scores.view(-1, PAGE))
        weights = at.scores.view(-1, at.blocks * PAGE).softmax(-1).view(-1, PAGE)
        mixed = torch.bmm(weights.index_select(0, at.score_page).view(N * K, G, PAGE), values)
        at.values.index_copy_(0, at.value_page, mixed.view(-1, E))
        if at.width:
            shares = weights.index_select(0, at.score_prompt).view(at.rows * K, -1, at.width)
            at.values.index_copy_(0, at.value_prompt, torch.bmm(shares, held[1]).view(-1, E))
        return at.values.view(len(self.row_of) + 1, -1, H * E).sum(1)

    def _turn_pages(self, into: Tensor) -> None:
        """A page for every answer that begins or has filled its last one."""
        for column in (into % PAGE == 0).nonzero()[:, 0].tolist():
            if self.row_of[column] != IDLE:
                page = heapq.heappop(self.free_pages)
                self.own[page], self.number[page] = column, len(self.pages_of[column])
                self.pages_of[column].append(page)
                self.places = None

    def _lay_out(self) -> Places:
        """Indices of this step's answers, and cleared scores and values."""
        config, B = self.config, len(self.row_of)
        H, K, E = config.n_heads, config.n_kv_heads, config.head_dim
        N = 1 + max((page for taken in self.pages_of for page in taken), default=0)
        R = 1 + max(self.members, default=-1)
        width = round_up(max((self.lengths[row] for row in self.members), default=0))
        longest = max((len(taken) for taken in self.pages_of), default=1) or 1  # W
        before, parts = width // PAGE, 1 + longest
        blocks = before + longest
        heads = torch.arange(H)
        own, number = torch.tensor(self.own[:N]), torch.tensor(self.number[:N])
        own.masked_fill_(own == IDLE, B)
        C = round_up(max((len(held) for held in self.members.values()), default=0), LEAST)
        held = [self.members.get(row, []) for row in range(R)]
        member = torch.tensor([[*columns, *[B] * (C - len(columns))] for columns in held], dtype=torch.int64)
        member = member.view(R, 1, C, 1)
        head = heads.view(K, 1, H // K)
        lengths = torch.tensor(self.lengths[:R], dtype=torch.int64)
        unseen = torch.zeros(R, width).masked_fill_(torch.arange(width) >= lengths[:, None], -torch.inf)
        scores = self._scores[: (B + 1) * H * blocks * PAGE].fill_(-torch.inf).view(B + 1, -1)
        idle = [column for column, row in enumerate(self.row_of) if row == IDLE]
        scores[[*idle, B]] = 0.0  # a row of -inf alone has no softmax
        return Places(
            rows=R,
            width=width,
            pages=N,
            blocks=blocks,
            own=own,
            number=number,
            page=torch.tensor([taken[-1] if taken else 0 for taken in self.pages_of]),
            unseen=unseen.repeat_interleave(K, 0)[:, None],
            ask_prompt=(member.clamp(max=B - 1) * H + head).flatten(),
            ask_page=(own.clamp(max=B - 1)[:, None] * H + heads).flatten(),
            score_prompt=(((member * H + head) * blocks)[..., None] + torch.arange(before)).flatten(),
            score_page=((own[:, None] * H + heads) * blocks + before + number[:, None]).flatten(),
            value_prompt=(member * parts * H + head).flatten(),
            value_page=((own * parts + 1 + number)[:, None] * H + heads).flatten(),
            scores=scores.view(-1, PAGE),
            values=self._values[: (B + 1) * parts * H * E].zero_().view(-1, E),
        )
