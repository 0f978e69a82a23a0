"""Rows of the exams' published files, each with the place that errors name."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from align.data.files import read_rows
from align.errors import DataError, nearest


def read_columns(path: str | Path, columns: Sequence[str], separator: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a file of separated values whose first line names its columns; quotes count where commas separate.

    Args:
        path: the file, UTF-8.
        columns: that every row must have, none of them empty.
        separator: a comma or a tab.

    Returns:
        ``file:line`` of each row's last line, and its columns.

    Raises:
        DataError: no such file, not UTF-8, a column that is missing, a row with too few or too many of them, or an
            empty one.
    """
    path = Path(path)
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{nearest(path.name, beside)}")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        if separator == ",":
            lines = csv.reader(stream, strict=True)
        else:
            lines = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
        try:
            head = next(lines, [])
            for name in columns:
                if name not in head:
                    raise DataError(f"{path}:1: {name}: found no such column{nearest(name, head)}, expected one")
            for values in lines:
                where = f"{path}:{lines.line_num}"
                if not values:
                    continue
                if len(values) != len(head):
                    raise DataError(f"{where}: found {len(values)} columns, expected {len(head)}: {', '.join(head)}")
                row = dict(zip(head, values, strict=True))
                for name in columns:
                    if not row[name].strip():
                        raise DataError(f"{where}: {name}: found nothing, expected text")
                yield where, row
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error})") from error
        except csv.Error as error:
            raise DataError(f"{path}:{lines.line_num}: not separated values ({error})") from error


def read_objects(path: str | Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of JSONL (also ``.gz``) or Parquet, or of ``hf:owner/name``, that have these fields as text.

    Returns:
        ``file:line`` and the row.

    Raises:
        DataError: no such file, not JSON, or a field that is missing, empty or no text.
    """
    for place, row in read_rows(path):
        if isinstance(row, DataError):
            raise row
        if not isinstance(row, dict):
            raise DataError(f"{place}: found {type(row).__name__}, expected an object")
        for name in fields:
            if name not in row:
                raise DataError(f"{place}: {name}: found no such field{nearest(name, row)}, expected one")
            if not isinstance(row[name], str) or not row[name].strip():
                raise DataError(f"{place}: {name}: found {row[name]!r:.60}, expected text")
        yield str(place), row
