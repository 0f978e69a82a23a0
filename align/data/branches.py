"""Sampled answers -> packed rows in which a prompt that several of them share stands once.

A causal model computes the same of a prompt whatever follows it. So the answers to a prompt are a small tree: its stem
is the prompt less its last token, and each branch is that token and an answer, so that what predicts an answer's token
always stands right before it. Branches see the stem and not each other. :mod:`align.data.trees` does the same for
pairs, whose ends alone are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from align.records import Batch

if TYPE_CHECKING:
    from torch import Tensor

# Ours: tokens of a document at which its attention, computed over the whole tree, takes as long as all the rest of it.
EVEN = 512

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Tree:
    """Answers that stand in one row behind one stem; a single answer stands with its prompt as a plain document."""

    rows: tuple[int, ...]  # numbers of the answers
    stem: int  # tokens, 0 for a single answer
    size: int  # tokens, stem and branches


def plant(prompts: Tokens, answers: Tokens, rows: Sequence[int], most: int) -> list[Tree]:
    """The answers as trees, in the order of each tree's first answer.

    A branch joins a tree where that costs less than a document of its own: its prompt's tokens are saved, and
    attention gets longer.

    Args:
        prompts: R prompts, none empty.
        answers: R answers.
        rows: those that are wanted.
        most: tokens of a tree; one answer with its prompt may have more.
    """
    same: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        same.setdefault(tuple(prompts[row]), []).append(row)
    found: list[Tree] = []
    for prompt, group in same.items():
        stem = len(prompt) - 1
        tree: list[int] = []
        size = 0
        for row in group:
            branch = 1 + len(answers[row])
            if tree and stem and size + branch <= most and _cost(size + branch) < _cost(size) + _cost(stem + branch):
                tree.append(row)
                size += branch
                continue
            if tree:
                found.append(_tree(tree, stem, size))
            tree, size = [row], stem + branch
        found.append(_tree(tree, stem, size))
    return found


def collate(prompts: Tokens, answers: Tokens, packs: Sequence[Sequence[Tree]]) -> Batch:
    """Rows of trees as one batch, the mask True on the answers' tokens, row by row in the order of the trees' answers.

    Args:
        prompts: R prompts.
        answers: R answers.
        packs: the trees of each row.
    """
    import torch

    shape = (len(packs), max(sum(tree.size for tree in pack) for pack in packs))
    tokens, positions, segments = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    stems = np.full(shape, -1, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.bool_)
    for line, pack in enumerate(packs):
        start, segment = 0, 0
        for tree in pack:
            stem = -1
            if tree.stem:
                stem = segment = segment + 1
                here = np.s_[line, start : start + tree.stem]
                tokens[here], positions[here] = prompts[tree.rows[0]][:-1], np.arange(tree.stem)
                segments[here] = segment
                start += tree.stem
            for row in tree.rows:
                segment += 1
                whole = [*prompts[row], *answers[row]][tree.stem :]
                stop = start + len(whole)
                here = np.s_[line, start:stop]
                tokens[here], positions[here] = whole, np.arange(tree.stem, tree.stem + len(whole))
                segments[here], stems[here] = segment, stem
                mask[line, stop - len(answers[row]) : stop] = True
                start = stop
    found = [torch.from_numpy(array) for array in (tokens, mask, positions, segments, stems)]
    shared = any(tree.stem for pack in packs for tree in pack)
    return Batch(found[0], found[1], found[2], found[3], found[4] if shared else None)


def ends(mask: Tensor, lengths: Sequence[int]) -> Tensor:
    """Flat index of each answer's last token, int64.

    Args:
        mask: [B, T] bool, of a batch of answers.
        lengths: of its answers, in its order.
    """
    import torch

    counted = mask.flatten().nonzero().squeeze(1)
    return counted[torch.tensor(lengths).cumsum(0).to(counted.device) - 1]


def _tree(rows: Sequence[int], stem: int, size: int) -> Tree:
    return Tree(tuple(rows), stem if len(rows) > 1 else 0, size)


def _cost(size: int) -> float:
    """Of a document, in tokens without attention."""
    return size + size**2 / EVEN
