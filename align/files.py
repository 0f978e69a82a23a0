"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically; missing folders are made."""
    with replacing(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Numbers that are not finite, which JSON has no word for, become null."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, atomically, gzipped where the name ends in ``.gz``.

    Returns:
        The number of rows. The same rows give the same bytes.
    """
    count = 0
    with replacing(path) as stream:
        packed = gzip.GzipFile(filename="", fileobj=stream, mode="wb", mtime=0) if path.suffix == ".gz" else None
        target = packed or stream
        for row in rows:
            target.write(json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False).encode() + b"\n")
            count += 1
        if packed is not None:
            packed.close()
    return count


def append_line(path: Path, value: Any) -> None:
    """Add a line of JSON to a file that grows while a job runs, on the disk before going on."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> Iterator[bytes]:
    """Lines of such a file, none where there is no file.

    A last line that a kill cut short is left out, and the file is cut back to whole lines when the end is reached.
    """
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                os.truncate(path, whole)
                return
            whole += len(line)
            yield line


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content takes the place of ``path`` when the block ends well, and not before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a fixed name, so that what a killed process left is overwritten by the next one and never gathers
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def jsonable(value: Any) -> Any:
    """Plain JSON values: scalars of numpy or torch unwrapped, paths as text, numbers not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):  # a scalar of numpy or torch
        return jsonable(value.item())
    return value
