"""Packed rows -> groups of documents of similar length: what attention on a CPU works on, document by document.

A packed row is for the matrix products, which do not care what a token belongs to. Attention does: over a whole row it
would cost the row's length squared, most of it masked. So each document attends by itself, beside others of its length.

Dims: B packed rows, T their tokens, N = B T, M of them that are not padding, D documents of a group, L tokens of its
longest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PADDED = 0.8  # a document shorter than this share of its group's longest begins a group of its own
TOKENS = 8192  # of a group, padding included: bounds its attention weights

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """Documents side by side, padded on the right. A document is plainly causal, or a tree: a stem and branches."""

    index: Tensor  # [D, L] int64, a token's place among the N, or M; -1: padding
    count: int  # of its tokens, padding left out
    own: Tensor | None = None  # [D, L] int32: a token sees its document from here to itself …
    stem: Tensor | None = None  # [D, L] int32: … and from 0 to here; both None: everything up to itself


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens of packed rows that are not padding, in one row of their own: what the layers see."""

    places: Tensor  # [M] int64, where they lie among the N
    among: Tensor  # [N] int64, where each of those lies here; of padding, where the token before it does

    def spread(self, x: Tensor) -> Tensor:
        """[M, W] -> [N, W], 0 as padding."""
        return x.new_zeros(len(self.among), x.shape[-1]).index_copy(0, self.places, x)


def groups(segments: Tensor, stems: Tensor | None = None) -> list[Group] | None:
    """The documents of packed rows, longest first.

    Args:
        segments: [B, T] int64, documents of a row, 0 is padding, which belongs to no group.
        stems: [B, T] int64, the document that a token sees besides its own, -1: none.

    Returns:
        None where a document does not lie in one piece, or not behind its stem: there a mask has to tell.
    """
    seen, T = segments.cpu().numpy(), segments.shape[1]
    flat = seen.reshape(-1)
    changes = np.ones(seen.shape, dtype=np.bool_)
    changes[:, 1:] = seen[:, 1:] != seen[:, :-1]
    runs = np.flatnonzero(changes)
    parts = flat[runs] != 0
    if len(np.unique(runs[parts] // T * (flat.max() + 1) + flat[runs[parts]])) < parts.sum():
        return None
    stem = None if stems is None else stems.cpu().numpy().reshape(-1)
    begins = changes if stem is None else changes & ((stem < 0).reshape(seen.shape) | (np.arange(T) == 0))
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=flat.size)
    own = shared = None
    if stem is not None:
        item = np.cumsum(begins.reshape(-1)) - 1  # the document, stem and branches, of every token
        trunk = flat[starts][item]
        in_trunk = flat == trunk
        if not (np.where(in_trunk, stem < 0, stem == trunk) | (flat == 0)).all():
            return None
        run_start = np.repeat(runs, np.diff(runs, append=flat.size))
        own = run_start - starts[item]
        trunk_length = np.add.reduceat(in_trunk, starts) if len(starts) else np.zeros(0, dtype=np.int64)
        shared = np.where(in_trunk, 0, trunk_length[item])
    kept = flat[starts] != 0
    return [_group(starts[kept][chosen], lengths[kept][chosen], own, shared) for chosen in _alike(lengths[kept])]


def rows(batch: int, tokens: int) -> list[Group]:
    """Rows that are one document each."""
    return [Group(torch.arange(batch * tokens).view(batch, tokens), batch * tokens)]


def without_padding(found: list[Group], segments: Tensor | None) -> tuple[Kept | None, list[Group]]:
    """Documents by their places among the M tokens that are left without padding.

    Args:
        found: the documents by their places among the N tokens.
        segments: [B, T] int64, 0 is padding; None: there is none.

    Returns:
        which tokens are left, and the documents; None and the documents as they are where all or none would be.
    """
    if segments is None:
        return None, found
    real = segments.flatten() != 0
    if real.all() or not real.any():
        return None, found
    kept = Kept(real.nonzero()[:, 0], (real.cumsum(0) - 1).clamp_(min=0))
    indices = (kept.among[group.index].masked_fill_(group.index < 0, -1) for group in found)
    return kept, [replace(group, index=index) for group, index in zip(found, indices, strict=True)]


def mask(group: Group, dtype: torch.dtype) -> Tensor | None:
    """What its tokens look at, [D, 1, L, L] with 0 where they do and -inf elsewhere; None: plainly causal."""
    if group.own is None or group.stem is None:
        return None
    key = torch.arange(group.index.shape[1])
    seen = (key >= group.own[..., None]) & (key <= key[:, None]) | (key < group.stem[..., None])
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))[:, None]


def _alike(lengths: Ints) -> list[Ints]:
    """Documents by length, cut where they get too short for those before, or where a group is full."""
    order = np.argsort(-lengths, kind="stable")
    cuts, first = [], 0
    for place, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[first]])
        if length < PADDED * longest or (place - first + 1) * longest > max(TOKENS, longest):
            cuts.append(place)
            first = place
    return np.split(order, cuts) if len(order) else []


def _group(starts: Ints, lengths: Ints, own: Ints | None, shared: Ints | None) -> Group:
    offsets = np.arange(int(lengths.max()))
    index = np.where(offsets < lengths[:, None], starts[:, None] + offsets, -1)
    if own is None or shared is None:
        return Group(torch.from_numpy(index), int(lengths.sum()))
    # padding sees itself alone: no row of weights is empty
    sees = np.where(index < 0, offsets, own[index]).astype(np.int32)
    trunk = np.where(index < 0, 0, shared[index]).astype(np.int32)
    return Group(torch.from_numpy(index), int(lengths.sum()), torch.from_numpy(sees), torch.from_numpy(trunk))
