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
from align.errors import DataError, RecipeError
from align.records import Batch, PairBatch, Row

if TYPE_CHECKING:
    from torch import Tensor

    from align.data.compared import ComparedRow
    from align.data.preference import PairRow
    from align.data.tokenizer import Tokenizer

M = TypeVar("M")


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

    Attention costs a row's length squared, and most documents are short: those within a quarter of the length are
    packed into quarter rows, four of which stand for one row. Longer ones get a row each, with plain causal
    attention, but are counted as they pack. The loss does not see the difference.

    Args:
        rows: encoded documents, each at most ``batch.length`` tokens.
        batch: sizes.
        seed: of the order of packed rows.
        rank: this process.
        world: number of processes.

    Raises:
        DataError: there is nothing to train on.
    """
    from align.data.pack import collate, pack, pad

    if not rows:
        raise DataError("no rows to train on")
    quarter = batch.length // 4
    short = pack([row for row in rows if len(row.tokens) <= quarter], quarter)
    long = pack([row for row in rows if len(row.tokens) > quarter], batch.length)
    units = [short[i : i + 4] for i in range(0, len(short), 4)] + [[one] for one in long]
    quartered = len(units) - len(long)

    def of(step: int) -> list[Batch]:
        mine = _window(len(units), step, batch, seed)[rank::world]
        narrow = [one for unit in mine if unit < quartered for one in units[unit]]
        wide = sorted(
            (row for unit in mine if unit >= quartered for one in units[unit] for row in one),
            key=lambda row: len(row.tokens),
        )
        size = 4 * batch.micro_rows
        packed = [collate(narrow[i : i + size], quarter) for i in range(0, len(narrow), size)]
        return packed + [pad(group) for group in _within(wide, batch.micro_rows * batch.length)]

    return Batches(steps=_steps(len(units), batch), of=of)


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


def _within(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Rows sorted by length, in groups of at most ``tokens`` padded tokens."""
    groups: list[list[Row]] = []
    for row in rows:
        if groups and (len(groups[-1]) + 1) * len(row.tokens) <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _steps(n: int, batch: BatchConfig) -> int:
    return max(1, round(n * batch.epochs / batch.rows))


def _window(n: int, step: int, batch: BatchConfig, seed: int) -> list[int]:
    from align.data.stream import order

    return [int(i) for i in order(n, step, batch.rows, seed)]
