"""Rows -> the micro-batches of any update, addressed by the update's number alone.

Nothing is advanced: the rows of update ``step`` follow from (seed, step), so a resume needs one integer and any
number of ranks sees the same rows in the same update.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import pydantic

from align.config import config
from align.errors import DataError, RecipeError
from align.records import Batch, PairBatch, Row

if TYPE_CHECKING:
    from torch import Tensor

    from align.data.compared import ComparedRow
    from align.data.preference import PairRow
    from align.data.tokenizer import Tokenizer

M = TypeVar("M")
T = TypeVar("T")


@config
class BatchConfig:
    """How many rows make an update, and how they are cut into forward passes."""

    rows: Annotated[int, pydantic.Field(ge=1)]  # an update, over all ranks: packed rows, or prompts with their pairs
    micro_rows: Annotated[int, pydantic.Field(ge=1)]  # a forward pass on one rank
    length: Annotated[int, pydantic.Field(ge=8)]  # tokens a row at most
    epochs: Annotated[float, pydantic.Field(gt=0)] = 1.0


def check_length(batch: BatchConfig, context: int) -> None:
    """Refuse rows that the model cannot see whole.

    Raises:
        RecipeError: ``batch.length`` is more than the context's tokens.
    """
    if batch.length > context:
        raise RecipeError(f"batch.length: {batch.length} tokens a row, and the model's context is {context}")


@dataclass(frozen=True, slots=True)
class Batches(Generic[M]):
    """``steps`` updates; calling it gives the micro-batches of one update on this rank."""

    steps: int
    of: Callable[[int], list[M]]

    def __call__(self, step: int) -> list[M]:
        """The micro-batches of update ``step`` on this rank."""
        return self.of(step)


def packed_batches(rows: Sequence[Row], batch: BatchConfig, *, seed: int, rank: int, world: int) -> Batches[Batch]:
    """Documents packed into rows of ``batch.length`` tokens that do not see each other.

    What an update learns is chosen in units: documents within a quarter of the length are packed into quarter rows,
    four of which stand for one row; longer ones are dealt one by one, and a unit of them is counted as a row. The
    documents of an update are then packed anew, as tightly as they go. The loss does not see the difference.

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
    quarter = batch.length // 4
    short = pack([row for row in rows if len(row.tokens) <= quarter], quarter)
    long = pack([row for row in rows if len(row.tokens) > quarter], batch.length)
    units = [[row for one in short[i : i + 4] for row in one] for i in range(0, len(short), 4)] + long

    def of(step: int) -> list[Batch]:
        mine = _window(len(units), step, batch, seed)[rank::world]
        packs = pack([row for unit in sorted(mine) for row in units[unit]], batch.length)
        return [collate(_level(part, batch.length), batch.length) for part in _parts(packs, batch.micro_rows)]

    return Batches(steps=_steps(len(units), batch), of=of)


def _level(packs: Sequence[Sequence[Row]], length: int) -> list[list[Row]]:
    """The documents of some packs in rows of one length, as far as it goes."""
    from align.data.pack import level

    rows = [row for pack in packs for row in pack]
    return [[rows[index] for index in chosen] for chosen in level([len(row.tokens) for row in rows], length)]


def _parts(packs: Sequence[T], most: int) -> list[Sequence[T]]:
    """As few parts as hold at most so many, of nearly one size."""
    count = -(-len(packs) // most) or 1
    cuts = [len(packs) * number // count for number in range(count + 1)]
    return [packs[start:stop] for start, stop in itertools.pairwise(cuts) if start < stop]


def pair_batches(
    pairs: Sequence[PairRow | ComparedRow], batch: BatchConfig, *, seed: int, rank: int, world: int
) -> Batches[PairBatch]:
    """Pairs of answers, all those of a prompt in one element; within an update those of similar length share a
    forward pass.
    """
    from align.data.compared import ComparedRow
    from align.data.preference import collate_pairs

    if not pairs:
        raise DataError("no preference pairs to train on")
    answers = [pair.answers if isinstance(pair, ComparedRow) else (pair.chosen, pair.rejected) for pair in pairs]
    lengths = [max(len(row.tokens) for row in rows) for rows in answers]

    def of(step: int) -> list[PairBatch]:
        mine = sorted(_window(len(pairs), step, batch, seed), key=lambda i: lengths[i])[rank::world]
        size = batch.micro_rows
        parts = [[pairs[i] for i in mine[start : start + size]] for start in range(0, len(mine), size)]
        return [collate_pairs(part, batch.length) for part in parts]

    return Batches(steps=_steps(len(pairs), batch), of=of)


def held_out_batches(tokenizer: Tokenizer, path: str, batch: BatchConfig) -> list[PairBatch]:
    """A file of preferences or rankings as micro-batches, those of similar length together; prompts are cut to fit."""
    from align.data.compared import compared_rows, read_compared
    from align.data.preference import collate_pairs

    records = [record for _, record in read_compared([path])]
    rows = compared_rows(tokenizer, records, margins="none", max_len=batch.length, overlong="cut").rows
    rows.sort(key=lambda row: max(len(answer.tokens) for answer in row.answers))
    size = batch.micro_rows
    return [collate_pairs(rows[start : start + size], batch.length) for start in range(0, len(rows), size)]


def predictors(mask: Tensor) -> Tensor:
    """Flat indices [N] into B*T of the positions that predict the counted tokens.

    Args:
        mask: [B, T] bool, True on counted tokens, never on a row's first (it has no predictor).
    """
    assert not bool(mask[:, 0].any()), "a row's first token cannot count: nothing predicts it"
    return mask.flatten().nonzero().squeeze(1) - 1


def _steps(n: int, batch: BatchConfig) -> int:
    return max(1, round(n * batch.epochs / batch.rows))


def _window(n: int, step: int, batch: BatchConfig, seed: int) -> list[int]:
    from align.data.stream import order

    return [int(i) for i in order(n, step, batch.rows, seed)]
