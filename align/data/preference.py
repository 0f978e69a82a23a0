"""Preferences -> pairs of rows with margins; mixing two sources; telling train from held-out by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from align.data.compared import MARGINS, ComparedRow, Margins, compared_rows, plain_pairs, read_compared
from align.data.fit import Overlong
from align.data.stream import permutation
from align.errors import DataError
from align.records import Messages, PairBatch, Preference, Ranking, Row

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer

__all__ = [
    "MARGINS",
    "Margins",
    "PairRow",
    "PairRows",
    "collate_pairs",
    "held_out",
    "leave_out",
    "mix",
    "pair_rows",
    "read_pairs",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PairRow:
    """One encoded preference."""

    chosen: Row  # both masks: the last answer and its EOS
    rejected: Row
    margin: float  # logits
    rating: int  # index into RATINGS
    safe: tuple[int, int]  # (chosen, rejected): 1 safe, 0 unsafe, -1 not labelled

    def compared(self, row: int = 0) -> ComparedRow:
        """The same as a ranking of two."""
        answers = (self.chosen, self.rejected)
        return ComparedRow(answers, ((0, 1),), (self.margin,), (self.rating,), self.safe, row=row)


@dataclass(frozen=True, slots=True)
class PairRows:
    """Pairs to train on and what became of the preferences."""

    pairs: list[PairRow]
    counts: dict[str, int]  # preferences, pairs, cut, skipped, tokens
    kept: list[int]  # which preference each pair is of


def pair_rows(
    tokenizer: Tokenizer,
    preferences: Sequence[Preference],
    *,
    margins: Margins,
    max_len: int,
    overlong: Overlong = "error",
) -> PairRows:
    """Encode preferences, a pair each; see :func:`align.data.compared.compared_rows` for arguments and errors."""
    made = compared_rows(tokenizer, preferences, margins=margins, max_len=max_len, overlong=overlong)
    pairs = [
        PairRow(row.answers[0], row.answers[1], row.margins[0], row.ratings[0], (row.safe[0], row.safe[1]))
        for row in made.rows
    ]
    counts = {name: made.counts[name] for name in ("preferences", "pairs", "cut", "skipped", "tokens")}
    return PairRows(pairs, counts, [row.row for row in made.rows])


def collate_pairs(rows: Sequence[PairRow | ComparedRow], length: int) -> PairBatch:
    """Pairs, and rankings with all theirs, as one batch of packed rows of at most ``length`` tokens."""
    from align.data.trees import collate

    return collate([row.compared(i) if isinstance(row, PairRow) else row for i, row in enumerate(rows)], length)


def read_pairs(paths: Iterable[str | Path]) -> list[Preference]:
    """The preferences of several files, in order; of a file of rankings, each pair that was told apart.

    Raises:
        DataError: see :func:`align.data.compared.read_compared`.
    """
    found = (record for _, record in read_compared(paths))
    return [pair for one in found for pair in (plain_pairs(one) if isinstance(one, Ranking) else [one])]


def leave_out(
    records: Sequence[tuple[str, Preference | Ranking]], held: Iterable[Preference | Ranking]
) -> list[tuple[str, Preference | Ranking]]:
    """What may be trained on: the records whose prompt, without case and spacing, is none of the held-out ones'."""
    prompts = {_prompt(one) for one in held}
    return [(place, one) for place, one in records if _prompt(one) not in prompts]


def _prompt(one: Preference | Ranking) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, " ".join(message.content.casefold().split())) for message in one.prompt)


def mix(main: Sequence[T], other: Sequence[T], main_share: float, seed: int) -> list[T]:
    """All of ``main``, and as many drawn from ``other`` as make ``main`` its share of the whole.

    The paper's helpfulness model has share 0.5 (an equal part from other sources), its safety model 0.9.

    Args:
        main: all are taken.
        other: drawn from without replacement, by seed.
        main_share: in (0, 1].
        seed: of the draw.

    Raises:
        DataError: ``other`` has too few, is empty, or would not be used at all.
    """
    if not main:
        raise DataError("mix: main has no rows")
    wanted = round(len(main) * (1 - main_share) / main_share)
    if wanted > len(other):
        least = len(main) / (len(main) + len(other))
        raise DataError(
            f"mix: main_share {main_share:g} beside {len(main)} rows of main takes {wanted} of other, "
            f"which has {len(other)}; expected main_share of at least {least:.4f} or more rows in other"
        )
    if other and not wanted:
        raise DataError(f"mix: main_share {main_share:g} takes none of the {len(other)} rows of other")
    drawn = sorted(permutation(len(other), 0, seed)[:wanted].tolist())
    return [*main, *(other[i] for i in drawn)]


def held_out(messages: Messages, share: float, salt: str = "") -> bool:
    """Whether a prompt belongs to the held-out side, from its opening alone.

    The opening is the first user message, without case and spacing: so no prompt is on both sides, nor a
    longer dialogue that grew from the same opening, in whatever file it comes.

    Args:
        messages: the prompt, or the dialogue with its answers.
        share: expected share held out, in [0, 1].
        salt: another salt, another split.
    """
    opening = next(message.content for message in messages if message.role == "user")
    text = salt + "\0" + " ".join(opening.casefold().split())
    word = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return word < share * 2**64
