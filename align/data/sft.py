"""Dialogues -> rows of tokens with a loss mask on the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.data.fit import Overlong, fit
from align.data.schema import messages_json
from align.data.template import Train, assemble, check_messages, encode_texts, turns
from align.records import Dialog, Messages, Row

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class SFTRows:
    """Rows to train on and what became of the dialogues."""

    rows: list[Row]
    counts: dict[str, int]  # dialogs, rows, joined, cut, skipped, tokens, counted (tokens in the loss)


def sft_rows(
    tokenizer: Tokenizer,
    dialogs: Sequence[Dialog],
    *,
    train: Train = "all",
    max_len: int,
    overlong: Overlong = "error",
) -> SFTRows:
    """Encode dialogues, every different turn once; beginnings of a dialogue are one row (:func:`joined`).

    Args:
        tokenizer: of the model.
        dialogs: to learn from.
        train: which answers count.
        max_len: tokens of a row at most.
        overlong: a longer dialogue is an ``error``, ``cut`` at a turn from the left (system message kept), or
            ``skip``-ped; a cut one whose last turn alone is too long is skipped.

    Raises:
        TemplateError: a dialogue that the format refuses.
        DataError: a dialogue that is too long, where that is an error.
    """
    for index, dialog in enumerate(dialogs):
        check_messages(dialog.messages, _where(index, dialog))
    encoded = encode_texts(tokenizer, (dialog.messages for dialog in dialogs))
    rows: list[Row] = []
    cut = skipped = 0

    def size(messages: Messages) -> int:
        # only a cut under a system message makes a text that is not encoded yet
        texts = [text for turn in turns(messages) for text in turn if text is not None]
        encoded.update(tokenizer.encode_many(text for text in texts if text not in encoded))
        return sum(len(encoded[text]) + 1 for text in texts)

    for index, dialog in enumerate(dialogs):
        kept = fit(dialog.messages, size, max_len, overlong, _where(index, dialog))
        if kept is None:
            skipped += 1
            continue
        cut += kept is not dialog.messages
        rows.append(assemble(tokenizer, kept, encoded, train))
    alone, rows = len(rows), joined(rows)
    counts = {
        "dialogs": len(dialogs),
        "rows": len(rows),
        "joined": alone - len(rows),
        "cut": cut,
        "skipped": skipped,
        "tokens": sum(len(row.tokens) for row in rows),
        "counted": sum(int(row.mask.sum()) for row in rows),
    }
    return SFTRows(rows, counts)


def joined(rows: Sequence[Row]) -> list[Row]:
    """Each row that another one begins with, as counted tokens of that one; in the order of what is left.

    A causal model computes the same for a beginning alone and within the longer row, so the loss is the same sum over
    the same tokens for a part of the work: beginnings of a dialogue of which the last answer is trained each (Ghost
    Attention) are one row. Rows that count a token twice between them stay apart.
    """
    keys = [row.tokens.astype(">i4").tobytes() for row in rows]
    kept: dict[int, Row] = {}
    longer = None  # the row left that begins like the one before it in this order, if any does
    for index in sorted(range(len(rows)), key=keys.__getitem__, reverse=True):
        row, size = rows[index], len(rows[index].tokens)
        if (
            longer is not None
            and keys[longer].startswith(keys[index])
            and not (kept[longer].mask[:size] & row.mask).any()
        ):
            mask = kept[longer].mask.copy()
            mask[:size] |= row.mask
            kept[longer] = Row(kept[longer].tokens, mask)
        else:
            kept[index], longer = row, index
    return [kept[index] for index in sorted(kept)]


def share_of(dialogs: Sequence[Dialog], share: float) -> list[Dialog]:
    """A share of dialogues, in their order: as many as ``share`` of them rounded, chosen by their content.

    Args:
        dialogs: to choose from.
        share: 0 … 1. Of two shares of the same dialogues the larger holds the smaller.
    """

    def place(index: int) -> tuple[bytes, int]:
        said = json.dumps(messages_json(dialogs[index].messages), ensure_ascii=False)
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest(), index

    ranked = sorted(range(len(dialogs)), key=place)
    return [dialogs[index] for index in sorted(ranked[: round(share * len(dialogs))])]


def _where(index: int, dialog: Dialog) -> str:
    return f"dialogue {index}" + (f" ({dialog.source})" if dialog.source else "")
