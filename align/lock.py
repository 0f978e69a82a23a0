"""One run at a time in a folder, by a lock file that a killed run leaves without harm."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.errors import LaunchError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` for the block.

    A lock whose process is dead is taken over. One of another machine cannot be judged and is respected.

    Raises:
        LaunchError: another run holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = {"pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()}
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(mine), encoding="utf-8")
    try:
        while True:
            try:
                os.link(draft, path)  # appears whole, and fails where one is there
                break
            except FileExistsError:
                _clear_if_dead(path)
    finally:
        draft.unlink()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _clear_if_dead(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    holder: dict[str, Any] = json.loads(text)
    if holder["host"] != socket.gethostname():
        raise LaunchError(
            f"{path.parent}: process {holder['pid']} on {holder['host']} works in this folder; "
            f"if it is dead, delete {path}"
        )
    if _started(holder["pid"]) == holder["started"] is not None:
        raise LaunchError(f"{path.parent}: process {holder['pid']} works in this folder; wait for it or end it")
    aside = path.with_name(f"{path.name}.{os.getpid()}.stale")
    with contextlib.suppress(FileNotFoundError):  # another run took the dead one's lock away first
        path.rename(aside)
        if aside.read_text(encoding="utf-8") != text:  # ... and holds its own there by now: give it back
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _started(pid: int) -> str | None:
    """When a process here started, so that a later one with its number is told apart; None if dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if fields[0] in "ZX" else fields[19]
    try:  # no /proc here: ask whether a signal could be sent
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"
    return "alive"
