"""Rows of a data file or hub set, each with the place that errors name."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import DataError, nearest

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands; as text ``file:line``."""

    path: str
    line: int  # from 1; the row's number where there are no lines
    raw: str | None = None  # the line where it is not JSON

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def read_rows(path: str | Path) -> Iterator[tuple[Place, dict[str, Any] | Any | DataError]]:
    """Rows in order, each with its place; in place of a line that is not JSON, the error that says so.

    Args:
        path: a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, ``.json`` or ``.json.gz`` with one array of rows,
            ``.csv`` or ``.tsv`` (where quotes are text) whose first line names the columns (all text), or
            ``hf:owner/name[:split]``. Blank lines of JSONL are passed over; nulls of a table's columns are taken as
            left out.

    Raises:
        DataError: no such file or set, an unknown suffix, a broken file.
    """
    name = str(path)
    if name.startswith("hf:"):
        yield from _table(name, *_hub(name))
        return
    path = Path(path)
    if not name.endswith(SUFFIXES):
        raise DataError(f"{name}: found suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)} or hf:owner/name")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{name}: no such file{nearest(path.name, beside)}")
    if path.suffix == ".parquet":
        yield from _table(name, "parquet", {"data_files": name, "split": "train"})
    elif name.endswith((".json", ".json.gz")):
        yield from _array(path)
    elif path.suffix in (".csv", ".tsv"):
        yield from _columns(path)
    else:
        yield from _lines(path)


def _array(path: Path) -> Iterator[tuple[Place, Any]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            rows = json.load(file)
        except (gzip.BadGzipFile, EOFError) as error:
            raise DataError(f"{path}: broken gzip file ({error})") from error
        except ValueError as error:
            raise DataError(f"{path}: not JSON: found {error}; expected one array of objects") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: found {type(rows).__name__}, expected one array of objects (one a line: .jsonl)")
    for number, row in enumerate(rows, 1):
        yield Place(str(path), number), row


def _columns(path: Path) -> Iterator[tuple[Place, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            lines = csv.reader(file, strict=True)
        else:
            lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            columns = next(lines, [])
            if not columns or len(set(columns)) < len(columns):
                raise DataError(f"{path}: found columns {columns}, expected a first line of different names")
            for values in lines:
                place = Place(str(path), lines.line_num)
                if len(values) == len(columns):
                    yield place, dict(zip(columns, values, strict=True))
                elif values:
                    told = f"{place}: found {len(values)} fields, expected {len(columns)}: {', '.join(columns)}"
                    yield place, DataError(told)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}:{lines.line_num + 1}: not {path.suffix[1:].upper()} in UTF-8: {error}") from error


def _lines(path: Path) -> Iterator[tuple[Place, Any]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    text = line.decode("utf-8", "replace").rstrip("\n")
                    place = Place(str(path), number, text)
                    found = "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else f"{error}"
                    yield place, DataError(f"{place}: not JSON: found {found}; expected one object a line")
                else:
                    yield Place(str(path), number), row
        except (gzip.BadGzipFile, EOFError) as error:
            raise DataError(f"{path}:{number + 1}: broken gzip file ({error})") from error


def _hub(name: str) -> tuple[str, dict[str, Any]]:
    """``hf:owner/name[:split]`` as the arguments of ``datasets.load_dataset``."""
    repository, _, split = name.removeprefix("hf:").partition(":")
    if not repository:
        raise DataError(f"{name}: found no name, expected hf:owner/name[:split]")
    return repository, {"split": split or "train"}


def _table(where: str, builder: str, settings: dict[str, Any]) -> Iterator[tuple[Place, Any]]:
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    try:
        # streaming reads where the file lies instead of copying it into a cache first
        rows = datasets.load_dataset(builder, streaming=True, **settings)
        for number, row in enumerate(rows, 1):
            yield Place(where, number), {key: value for key, value in row.items() if value is not None}
    except (ValueError, OSError, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{where}: cannot be read: {' '.join(str(error).split())}") from error
