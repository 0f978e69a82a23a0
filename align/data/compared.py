"""Preferences and rankings as one kind of element: K answers to a prompt, and which of them is better than which.

A preference is a ranking of two. All pairs of a prompt stay together, in one batch element (InstructGPT, arXiv
2203.02155, section 3.5): taken for pairs of their own they over-fit, each answer being seen K - 1 times an epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from align.data.files import read_rows
from align.data.fit import Overlong, fit
from align.data.schema import Skipped, read_preferences, read_rankings
from align.data.template import assemble, check_messages, encode_texts, turns
from align.errors import DataError
from align.records import RATINGS, Comparison, Messages, Preference, Ranking, Rating, Row

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer

Margins = Literal["none", "small", "large"]
# paper table 27, logits
MARGINS: dict[Margins, dict[Rating, float]] = {
    "none": {"significantly": 0.0, "better": 0.0, "slightly": 0.0, "negligibly": 0.0},
    "small": {"significantly": 1.0, "better": 2 / 3, "slightly": 1 / 3, "negligibly": 0.0},
    "large": {"significantly": 3.0, "better": 2.0, "slightly": 1.0, "negligibly": 0.0},
}


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """The encoded answers to one prompt that some comparison tells apart, and the P pairs that were told apart."""

    answers: tuple[Row, ...]  # prompt and answer each; both masks: the last answer and its EOS
    pairs: tuple[tuple[int, int], ...]  # (chosen, rejected), indices into answers
    margins: tuple[float, ...]  # [P] logits
    ratings: tuple[int, ...]  # [P] index into RATINGS
    safe: tuple[int, ...]  # of each answer: 1 safe, 0 unsafe, -1 not labelled
    share: float = 1.0  # 1 / C(K, 2) of all K answers, tied ones and those left out here included
    row: int = 0  # where it stood among what was encoded


@dataclass(frozen=True, slots=True)
class ComparedRows:
    """Elements to train on and what became of the preferences and rankings."""

    rows: list[ComparedRow]
    counts: dict[str, int]  # preferences, rankings, pairs, ties, tied (no pair left), cut, skipped, tokens


def compared_rows(
    tokenizer: Tokenizer,
    records: Sequence[Preference | Ranking],
    *,
    margins: Margins,
    max_len: int,
    overlong: Overlong = "error",
    places: Sequence[str] | None = None,
) -> ComparedRows:
    """Encode preferences and rankings; each different turn is encoded once, so answers share their prompt's.

    Args:
        tokenizer: of the model.
        records: in any mixture.
        margins: table of margins by rating.
        max_len: tokens of the longest of prompt + answer.
        overlong: a longer one is an ``error``, has its prompt ``cut`` at a turn from the left (the same for all
            answers, system message kept), or is ``skip``-ped whole.
        places: of each record, for errors; ``preference 3`` where None.

    Raises:
        TemplateError: a dialogue that the format refuses.
        DataError: a record that is too long, where that is an error.
    """
    names = [_where(i, one) for i, one in enumerate(records)] if places is None else places
    for where, one in zip(names, records, strict=True):
        check_messages(one.prompt, f"{where}: prompt", ends="user")
        for name, answer in answers_of(one):
            check_messages((*one.prompt, *answer), f"{where}: prompt + {name}")
    encoded = encode_texts(tokenizer, ((*one.prompt, *answer) for one in records for _, answer in answers_of(one)))
    rows: list[ComparedRow] = []
    counts = {
        "preferences": sum(isinstance(one, Preference) for one in records),
        "rankings": sum(isinstance(one, Ranking) for one in records),
        **dict.fromkeys(("pairs", "ties", "tied", "cut", "skipped", "tokens"), 0),
    }

    def size(messages: Messages) -> int:
        texts = [text for turn in turns(messages) for text in turn if text is not None]
        encoded.update(tokenizer.encode_many(text for text in texts if text not in encoded))
        return sum(len(encoded[text]) + 1 for text in texts)

    for index, one in enumerate(records):
        told = comparisons(one)
        strict = [(c.chosen, c.rejected, c.rating) for c in told if c.chosen is not None and c.rejected is not None]
        counts["ties"] += len(told) - len(strict)
        used = sorted({answer for chosen, rejected, _ in strict for answer in (chosen, rejected)})
        every = [answer for _, answer in answers_of(one)]
        answers = [every[i] for i in used]
        if not strict:
            counts["tied"] += 1
            continue

        def longest(prompt: Messages, answers: Sequence[Messages] = answers) -> int:
            return max(size((*prompt, *answer)) for answer in answers)

        prompt = fit(one.prompt, longest, max_len, overlong, names[index])
        if prompt is None:
            counts["skipped"] += 1
            continue
        counts["cut"] += prompt is not one.prompt
        made = ComparedRow(
            answers=tuple(assemble(tokenizer, (*prompt, *answer), encoded, "last") for answer in answers),
            pairs=tuple((used.index(chosen), used.index(rejected)) for chosen, rejected, _ in strict),
            margins=tuple(MARGINS[margins][rating] for _, _, rating in strict),
            ratings=tuple(RATINGS.index(rating) for _, _, rating in strict),
            safe=tuple(_safe(one)[i] for i in used),
            share=1 / comb(len(every), 2),
            row=index,
        )
        counts["pairs"] += len(made.pairs)
        counts["tokens"] += sum(len(answer.tokens) for answer in made.answers)
        rows.append(made)
    return ComparedRows(rows, counts)


def answers_of(one: Preference | Ranking) -> list[tuple[str, Messages]]:
    """Every answer with its field's name."""
    if isinstance(one, Preference):
        return [("chosen", one.chosen), ("rejected", one.rejected)]
    return [(f"answers.{i}", answer) for i, answer in enumerate(one.answers)]


def comparisons(one: Preference | Ranking) -> tuple[Comparison, ...]:
    """All that was said of two answers at a time; of ranks, every pair there is."""
    if isinstance(one, Preference):
        return (Comparison(pair=(0, 1), chosen=0, rating=one.rating),)
    if one.comparisons:
        return one.comparisons
    pairs = combinations(range(len(one.ranks)), 2)
    return tuple(Comparison(pair=(i, j), chosen=_better(one.ranks, i, j)) for i, j in pairs)


def plain_pairs(ranking: Ranking) -> list[Preference]:
    """Each pair that was told apart as a preference of its own, in order; ties are left out."""
    return [
        Preference(
            prompt=ranking.prompt,
            chosen=ranking.answers[told.chosen],
            rejected=ranking.answers[told.rejected],
            rating=told.rating,
            kind=ranking.kind,
            source=ranking.source,
        )
        for told in comparisons(ranking)
        if told.chosen is not None and told.rejected is not None
    ]


def read_records(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Preference | Ranking]:
    """The rows of a file of preferences or of rankings; its first row tells which.

    Raises:
        DataError: see :func:`align.data.schema.read_preferences`.
    """
    _, first = next(read_rows(path), (None, None))
    if isinstance(first, dict) and "answers" in first:
        yield from read_rankings(path, skip_bad)
    else:
        yield from read_preferences(path, skip_bad)


def read_compared(paths: Iterable[str | Path]) -> list[tuple[str, Preference | Ranking]]:
    """The preferences or rankings of several files, in order, each with its place for errors.

    Raises:
        DataError: a file without rows; otherwise see :func:`read_records`.
    """
    found: list[tuple[str, Preference | Ranking]] = []
    for path in paths:
        before = len(found)
        found += [(f"{path}: row {number}", record) for number, record in enumerate(read_records(path), 1)]
        if len(found) == before:
            raise DataError(f"{path}: found no rows, expected at least one preference or ranking")
    return found


def _better(ranks: Sequence[int], i: int, j: int) -> int | None:
    if ranks[i] == ranks[j]:
        return None
    return i if ranks[i] < ranks[j] else j


def _safe(one: Preference | Ranking) -> tuple[int, ...]:
    if isinstance(one, Ranking):
        return (-1,) * len(one.answers)
    return tuple(-1 if safe is None else int(safe) for safe in (one.chosen_safe, one.rejected_safe))


def _where(index: int, record: Preference | Ranking) -> str:
    name = "ranking" if isinstance(record, Ranking) else "preference"
    return f"{name} {index}" + (f" ({record.source})" if record.source else "")
