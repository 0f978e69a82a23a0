"""Messages of whatever holds a conversation: dialogues to learn from, or prompts to be answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from align.data.files import read_rows
from align.data.schema import Skipped, read_dialogs, read_prompts
from align.records import Messages


def read_conversations(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Messages]:
    """The messages of each row; the first row says which of the two the file holds.

    Raises:
        DataError: see :mod:`align.data.schema`.
    """
    _, first = next(read_rows(path), (None, None))
    read = read_prompts if isinstance(first, dict) and "prompt" in first else read_dialogs
    for record in read(path, skip_bad):
        yield record.messages
