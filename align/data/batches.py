"""Rows -> the micro-batches of any update, addressed by the update's number alone.

Nothing is advanced: the rows of update ``step`` follow from (seed, step), so a resume needs one integer and any
number of ranks sees the same rows in the same update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import pydantic

from align.config import config
from align.errors import DataError
from align.records import Batch, PairBatch, Row

if TYPE_CHECKING:
    from torch import Tensor

    from align.data.preference import PairRow

M = TypeVar("M")


@config
class BatchConfig:
    """How many rows make an update, and how they are cut into forward passes."""

    rows: Annotated[int, pydantic.Field(ge=1)]  # an update, over all ranks: packed rows, or pairs
    micro_rows: Annotated[int, pydantic.Field(ge=1)]  # a forward pass on one rank
    length: Annotated[int, pydantic.Field(ge=8)]  # tokens a row at most
    epochs: Annotated[float, pydantic.Field(gt=0)] = 1.0


@dataclass(frozen=True, slots=True)
class Batches(Generic[M]):
    """``steps`` updates; calling it gives the micro-batches of one update on this rank."""

    steps: int
    of: Callable[[int], list[M]]

    def __call__(self, step: int) -> list[M]:
        return self.of(step)


def packed_batches(rows: Sequence[Row], batch: BatchConfig, *, seed: int, rank: int, world: int) -> Batches[Batch]:
    """Documents packed into rows of ``batch.length`` tokens that do not see each other.

    Args:
        rows: encoded documents, each at most ``batch.length`` tokens.
        batch: sizes.
        seed: of the order of packed rows.
        rank: this process.
        world: number of processes.

    Raises:
        DataError: there is nothing to train on.
    """
    from align.data.pack import collate, pack

    if not rows:
        raise DataError("no rows to train on")
    packs = pack(rows, batch.length)
    cut = _cutter(len(packs), batch, seed, rank, world)

    def of(step: int) -> list[Batch]:
        return [collate([packs[i] for i in part], batch.length) for part in cut(step)]

    return Batches(steps=_steps(len(packs), batch), of=of)


def pair_batches(pairs: Sequence[PairRow], batch: BatchConfig, *, seed: int, rank: int, world: int) -> Batches[PairBatch]:
    """Pairs of answers; within an update the pairs of similar length share a forward pass."""
    from align.data.preference import collate_pairs

    if not pairs:
        raise DataError("no preference pairs to train on")
    cut = _cutter(len(pairs), batch, seed, rank, world, key=lambda i: max(len(pairs[i].chosen.tokens), len(pairs[i].rejected.tokens)))

    def of(step: int) -> list[PairBatch]:
        return [collate_pairs([pairs[i] for i in part]) for part in cut(step)]

    return Batches(steps=_steps(len(pairs), batch), of=of)


def predictors(mask: Tensor) -> Tensor:
    """Flat indices [N] into B*T of the positions that predict the counted tokens.

    Args:
        mask: [B, T] bool, True on counted tokens, never on a row's first (it has no predictor).
    """
    assert not bool(mask[:, 0].any()), "a row's first token cannot count: nothing predicts it"
    return mask.flatten().nonzero().squeeze(1) - 1


def _steps(n: int, batch: BatchConfig) -> int:
    return max(1, round(n * batch.epochs / batch.rows))


def _cutter(
    n: int, batch: BatchConfig, seed: int, rank: int, world: int, key: Callable[[int], int] | None = None
) -> Callable[[int], list[list[int]]]:
    from align.data.stream import order

    def cut(step: int) -> list[list[int]]:
        whole = [int(i) for i in order(n, step, batch.rows, seed)]
        if key is not None:
            whole.sort(key=key)
        mine = whole[rank::world]
        return [mine[i : i + batch.micro_rows] for i in range(0, len(mine), batch.micro_rows)]

    return cut
