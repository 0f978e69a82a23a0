"""Rows of the exams' published files, each with the place that errors name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from align.data.files import read_rows
from align.errors import DataError, nearest


def read_objects(path: str | Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of any file that :func:`align.data.files.read_rows` reads, which have these fields as text.

    Returns:
        ``file:line`` and the row.

    Raises:
        DataError: see there; or a field that is missing, empty or no text.
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
