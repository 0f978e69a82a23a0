"""Dialogues that must fit the context: refused, cut at a turn from the left, or skipped; always counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from align.errors import DataError
from align.records import Messages

Overlong = Literal["error", "cut", "skip"]


def shorter(messages: Messages) -> Iterator[Messages]:
    """The dialogue without its first turn, without its first two, …; the system message stays.

    At least one user message is left.
    """
    system, rest = (messages[:1], messages[1:]) if messages[0].role == "system" else ((), messages)
    while len(rest) > 2:
        rest = rest[2:]
        yield (*system, *rest)


def fit(
    messages: Messages, size: Callable[[Messages], int], max_len: int, overlong: Overlong, where: str
) -> Messages | None:
    """The dialogue as it may be used.

    Args:
        messages: checked messages.
        size: tokens of such a dialogue.
        max_len: tokens at most.
        overlong: what becomes of one that is longer.
        where: named in the error.

    Returns:
        The dialogue, whole or cut at a turn from the left; None where it is to be skipped (also where its
        last turn alone does not fit: an answer is never cut).

    Raises:
        DataError: it is too long and ``overlong`` is ``error``.
    """
    found = size(messages)
    if found <= max_len:
        return messages
    if overlong == "error":
        raise DataError(f"{where}: found {found} tokens, expected at most {max_len}; overlong: cut or skip allows it")
    if overlong == "cut":
        return next((less for less in shorter(messages) if size(less) <= max_len), None)
    return None
