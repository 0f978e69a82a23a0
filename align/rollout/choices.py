"""Log-probabilities of given continuations: those of one context share its tokens, in packed rows.

A context with its continuations is a small tree (see :mod:`align.data.trees`): the stem is read once, and each
continuation sees the stem and itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from align.data.pack import bins

if TYPE_CHECKING:
    from align.model.llama import Llama

Context = Sequence[int]
Continuations = Sequence[Sequence[int]]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Tree:
    tokens: Ints  # [T] the context, then its continuations
    positions: Ints  # [T]
    branch: Ints  # [T] 0 the context, 1, 2, … the continuations
    before: Ints  # [N] for each token of a continuation: the place of the token that predicts it
    targets: Ints  # [N] the token itself
    place: Ints  # [N] the continuation's number among all


@torch.inference_mode()
def continuation_logprobs(
    policy: Llama,
    asked: Sequence[tuple[Context, Continuations]],
    batch_tokens: int = 16384,
    on_batch: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """``log p(continuation | context)``, summed over its tokens, of every continuation of every context.

    Args:
        policy: its own device and dtype are used.
        asked: contexts, BOS included, none empty, each with its continuations, none empty. A context with its
            longest continuation must fit the model's context.
        batch_tokens: size of a forward pass, padding included; one tree that is longer gets a pass of its own.
        on_batch: is told how many continuations each pass has read.

    Returns:
        Nats, for each context in order its continuations' in order.
    """
    counts = [len(continuations) for _, continuations in asked]
    first = np.cumsum([0, *counts])
    trees = [
        tree
        for (context, continuations), number in zip(asked, first, strict=False)
        for tree in _trees(context, continuations, int(number), batch_tokens)
    ]
    sums = np.zeros(int(first[-1]))
    for rows in _batches([len(tree.tokens) for tree in trees], batch_tokens):
        packed = [[trees[index] for index in row] for row in rows]
        read, place = _read(policy, packed)
        np.add.at(sums, place, read)
        if on_batch:
            on_batch(len(np.unique(place)))
    return [sums[start : start + count].tolist() for start, count in zip(first, counts, strict=False)]


def _trees(context: Context, continuations: Continuations, first: int, most: int) -> Iterator[_Tree]:
    """One tree, or several of at most so many tokens where one would be longer."""
    sizes = [len(continuation) for continuation in continuations]
    room = max(most - len(context), max(sizes))
    for group in bins(sizes, room) if sum(sizes) > room else [list(range(len(sizes)))]:
        yield _tree(context, [continuations[i] for i in group], [first + i for i in group])


def _tree(context: Context, continuations: Continuations, numbers: Sequence[int]) -> _Tree:
    stem, sizes = len(context), [len(continuation) for continuation in continuations]
    assert stem > 0, "a context has a token at least: something must predict the first one"
    assert all(sizes), "a continuation has a token at least"
    tokens = np.concatenate([np.asarray(part, dtype=np.int64) for part in (context, *continuations)])
    starts = stem + np.cumsum([0, *sizes])[:-1]
    before = np.arange(stem, len(tokens)) - 1
    before[starts - stem] = stem - 1  # a continuation's first token is predicted by the context's last
    return _Tree(
        tokens=tokens,
        positions=np.concatenate((np.arange(stem), *(np.arange(stem, stem + size) for size in sizes))),
        branch=np.repeat(np.arange(len(sizes) + 1), (stem, *sizes)),
        before=before,
        targets=tokens[stem:],
        place=np.repeat(np.asarray(numbers, dtype=np.int64), sizes),
    )


def _batches(sizes: Sequence[int], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Trees of similar length in the rows of a forward pass."""
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    while order:
        width = sizes[order[0]]
        rows = max(1, batch_tokens // width)
        taken = rows
        while taken < len(order) and sum(sizes[index] for index in order[: taken + 1]) <= rows * width:
            taken += 1
        packs = bins([sizes[index] for index in order[:taken]], width)
        while len(packs) > rows:  # what the rows' ends leave free did not fit
            taken -= 1
            packs = bins([sizes[index] for index in order[:taken]], width)
        yield [[order[index] for index in pack] for pack in packs]
        order = order[taken:]


def _read(policy: Llama, rows: Sequence[Sequence[_Tree]]) -> tuple[NDArray[np.float64], Ints]:
    """Log-probabilities [N] of all continuations' tokens in packed rows, and whose each token is."""
    shape = (len(rows), max(sum(len(tree.tokens) for tree in row) for row in rows))
    tokens, positions, segments = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    stems = np.full(shape, -1, dtype=np.int64)
    at: list[Ints] = []
    for line, row in enumerate(rows):
        start, stem = 0, 1
        for tree in row:
            here = np.s_[line, start : start + len(tree.tokens)]
            tokens[here], positions[here] = tree.tokens, tree.positions
            segments[here] = stem + tree.branch
            stems[here] = np.where(tree.branch > 0, stem, -1)
            at.append(line * shape[1] + start + tree.before)
            start += len(tree.tokens)
            stem += int(tree.branch.max()) + 1
    trees = [tree for row in rows for tree in row]
    device = next(policy.parameters()).device
    logprobs, _ = policy(
        *(torch.from_numpy(array).to(device) for array in (tokens, positions, segments)),
        stems=torch.from_numpy(stems).to(device),
        at=torch.from_numpy(np.concatenate(at)).to(device),
        targets=torch.from_numpy(np.concatenate([tree.targets for tree in trees])).to(device),
    )
    return logprobs.double().cpu().numpy(), np.concatenate([tree.place for tree in trees])
