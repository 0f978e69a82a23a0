"""Plain text -> documents -> rows in which every token but the first counts, for a base model."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

from align.errors import DataError
from align.records import Row

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer

Documents = Literal["line", "paragraph"]


def read_text(
    paths: Iterable[Path | str], documents: Documents = "line", max_documents: int | None = None
) -> Iterator[str]:
    """The documents of ``.txt`` and ``.jsonl`` files, each also with ``.gz``.

    Args:
        paths: files, read in order.
        documents: of a text file: each ``line``, or each ``paragraph`` (lines between blank ones). A row of
            JSONL is one document, its ``text``.
        max_documents: stop after so many.

    Raises:
        DataError: no such file, not UTF-8 text, a row without ``text``.
    """
    count = 0
    for path in map(Path, paths):
        for document in _documents(path, documents):
            if max_documents is not None and count >= max_documents:
                return
            count += 1
            yield document


def text_rows(tokenizer: Tokenizer, texts: Iterable[str], length: int) -> list[Row]:
    """BOS + text + EOS as rows of at most ``length`` tokens.

    A longer document goes on in further rows, each starting with the last token of the one before, which
    does not count again: so every token but BOS counts exactly once.

    Args:
        tokenizer: of the model.
        texts: documents.
        length: tokens of a row at most, at least 2.
    """
    assert length >= 2
    whole = list(texts)
    encoded = tokenizer.encode_many(whole)
    rows = []
    for text in whole:
        tokens = np.array([tokenizer.bos, *encoded[text], tokenizer.eos], dtype=np.int32)
        for start in range(0, len(tokens) - 1, length - 1):
            part = tokens[start : start + length]
            rows.append(Row(part, np.arange(len(part)) > 0))
    return rows


def _documents(path: Path, documents: Documents) -> Iterator[str]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    names: Sequence[str] = path.suffixes
    with _open(path) as lines:
        try:
            if ".jsonl" in names[-2:]:
                yield from _texts(path, lines)
            elif documents == "line":
                yield from (line.strip() for line in lines if line.strip())
            else:
                yield from _paragraphs(lines)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise DataError(f"{path}: not UTF-8 text ({error})") from error


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _texts(path: Path, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: found no JSON ({error}), expected an object with 'text'") from error
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise DataError(f"{path}:{number}: text: found {text!r}, expected a string")
        if text.strip():
            yield text


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    gathered: list[str] = []
    for line in lines:
        if line.strip():
            gathered.append(line.rstrip())
        elif gathered:
            yield "\n".join(gathered)
            gathered = []
    if gathered:
        yield "\n".join(gathered)
