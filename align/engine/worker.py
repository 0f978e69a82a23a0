"""One of several processes of a stage, started by ``launch.py`` under torchrun: ``python -m align.engine.worker SPEC``.

It leaves ``rank-N.json`` beside the spec: ``done``, ``failed`` with the error, or ``stopped`` by SIGTERM because
another rank failed. A rank that leaves none was killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from align.engine import dist
from align.engine.launch import run_stage
from align.errors import AlignError

GRACE = 20.0  # seconds a stopped process may take to save before it ends itself


def main(spec: Path) -> int:
    """Run the stage that the spec names; the exit code is the error's."""
    task = json.loads(spec.read_text())
    record = spec.parent / f"rank-{os.environ['RANK']}.json"
    _watch(record, task["launcher"])
    try:
        dist.setup()
        run_stage(task["module"], task["recipe"], Path(task["out"]))
        dist.barrier()
    except AlignError as error:
        _tell(record, state="failed", kind=type(error).__name__, message=str(error))
        return error.exit_code
    except BaseException as error:
        _tell(record, state="failed", kind=type(error).__name__, message=f"{type(error).__name__}: {error}")
        raise
    _tell(record, state="done")
    dist.shutdown()
    return 0


def _tell(record: Path, **values: Any) -> None:
    if record.exists():  # the first word stands
        return
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"time": time.time(), **values}))
    partial.replace(record)


def _watch(record: Path, launcher: int) -> None:
    """On SIGTERM leave a record and, after a while, end, even where the main thread hangs in a collective.

    A Python signal handler would wait for the main thread; the wake-up socket is written by the C handler at once.
    Also end when the launcher is gone, so that whoever starts the run again does not meet its old processes.
    """
    reader, signals = socket.socketpair()
    signals.setblocking(False)
    signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    reader.settimeout(1.0)

    def watch() -> None:
        kept = signals  # closed, it would take the signals with it
        while True:
            try:
                stopped = signal.SIGTERM in reader.recv(64)
            except TimeoutError:
                stopped = False
            if stopped:
                _tell(record, state="stopped")
                time.sleep(GRACE)
            if stopped or not _alive(launcher):
                kept.close()
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the threads of a process group whose peer has died may hang in their destructors
