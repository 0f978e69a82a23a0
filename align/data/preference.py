"""Preferences -> pairs of rows with margins; mixing two sources; telling train from held-out by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from align.data.fit import Overlong, fit
from align.data.stream import permutation
from align.data.template import assemble, check_messages, encode_texts, turns
from align.errors import DataError
from align.records import RATINGS, Messages, PairBatch, Preference, Rating, Row

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer

T = TypeVar("T")
Margins = Literal["none", "small", "large"]
# paper table 27, logits
MARGINS: dict[Margins, dict[Rating, float]] = {
    "none": {"significantly": 0.0, "better": 0.0, "slightly": 0.0, "negligibly": 0.0},
    "small": {"significantly": 1.0, "better": 2 / 3, "slightly": 1 / 3, "negligibly": 0.0},
    "large": {"significantly": 3.0, "better": 2.0, "slightly": 1.0, "negligibly": 0.0},
}


@dataclass(frozen=True, slots=True)
class PairRow:
    """One encoded preference."""

    chosen: Row  # both masks: the last answer and its EOS
    rejected: Row
    margin: float  # logits
    rating: int  # index into RATINGS
    safe: tuple[int, int]  # (chosen, rejected): 1 safe, 0 unsafe, -1 not labelled


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
    """Encode preferences; each different turn is encoded once, so pairs share their prompt's.

    Args:
        tokenizer: of the model.
        preferences: pairs of answers to one prompt.
        margins: table of margins by rating.
        max_len: tokens of the longer of prompt + answer.
        overlong: a longer pair is an ``error``, has its prompt ``cut`` at a turn from the left (the same for
            both answers, system message kept), or is ``skip``-ped.

    Raises:
        TemplateError: a dialogue that the format refuses.
        DataError: a pair that is too long, where that is an error.
    """
    for index, p in enumerate(preferences):
        check_messages(p.prompt, f"{_where(index, p)}: prompt", ends="user")
        check_messages((*p.prompt, *p.chosen), f"{_where(index, p)}: prompt + chosen")
        check_messages((*p.prompt, *p.rejected), f"{_where(index, p)}: prompt + rejected")
    encoded = encode_texts(tokenizer, ((*p.prompt, *answer) for p in preferences for answer in (p.chosen, p.rejected)))
    found: list[PairRow] = []
    kept: list[int] = []
    cut = skipped = 0

    def size(messages: Messages) -> int:
        texts = [text for turn in turns(messages) for text in turn if text is not None]
        encoded.update(tokenizer.encode_many(text for text in texts if text not in encoded))
        return sum(len(encoded[text]) + 1 for text in texts)

    for index, p in enumerate(preferences):

        def longer(prompt: Messages, p: Preference = p) -> int:
            return max(size((*prompt, *p.chosen)), size((*prompt, *p.rejected)))

        prompt = fit(p.prompt, longer, max_len, overlong, _where(index, p))
        if prompt is None:
            skipped += 1
            continue
        cut += prompt is not p.prompt
        kept.append(index)
        found.append(
            PairRow(
                chosen=assemble(tokenizer, (*prompt, *p.chosen), encoded, "last"),
                rejected=assemble(tokenizer, (*prompt, *p.rejected), encoded, "last"),
                margin=MARGINS[margins][p.rating],
                rating=RATINGS.index(p.rating),
                safe=(_label(p.chosen_safe), _label(p.rejected_safe)),
            )
        )
    counts = {
        "preferences": len(preferences),
        "pairs": len(found),
        "cut": cut,
        "skipped": skipped,
        "tokens": sum(len(pair.chosen.tokens) + len(pair.rejected.tokens) for pair in found),
    }
    return PairRows(found, counts, kept)


def collate_pairs(rows: Sequence[PairRow], length: int) -> PairBatch:
    """Pairs as one batch of packed rows of at most ``length`` tokens (align/data/trees.py)."""
    from align.data.trees import pairs

    return pairs(
        [(row.chosen, row.rejected) for row in rows],
        [row.margin for row in rows],
        [row.rating for row in rows],
        [row.safe for row in rows],
        length,
    )


def read_pairs(paths: Iterable[str | Path]) -> list[Preference]:
    """The preferences of several files, in order.

    Raises:
        DataError: see :func:`align.data.schema.read_preferences`.
    """
    from align.data.schema import read_preferences

    return [preference for path in paths for preference in read_preferences(path)]


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


def _label(safe: bool | None) -> int:
    return -1 if safe is None else int(safe)


def _where(index: int, preference: Preference) -> str:
    return f"preference {index}" + (f" ({preference.source})" if preference.source else "")
