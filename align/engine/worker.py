"""One of several processes of a stage.

``work`` is what each does, wherever it runs. Under torchrun it is ``python -m align.engine.worker SPEC``, which leaves
its last words in ``rank-N.json`` beside the spec and its phase in ``rank-N.phase``. A rank that leaves none was killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from align.engine import dist, phase
from align.engine.launch import run_stage
from align.engine.torchrun import SAID
from align.errors import AlignError

GRACE = 20.0  # seconds a stopped process may take to save before it ends itself
WIDTH = 100  # bytes of a phase in its file, so that a short one wipes out a long one


def main(spec: Path) -> int:
    """Run the stage that the spec names; the exit code is the error's."""
    task = json.loads(spec.read_text())
    said = os.open(spec.parent / SAID, os.O_WRONLY)
    os.dup2(said, sys.stderr.fileno())
    os.close(said)
    record = spec.parent / f"rank-{os.environ['RANK']}.json"
    _watch(record, task["launcher"])
    with record.with_suffix(".phase").open("wb", buffering=0) as at:
        code = work(
            task,
            tell=lambda words: _tell(record, words),
            tell_phase=lambda name: os.pwrite(at.fileno(), name.encode().ljust(WIDTH), 0),
        )
    if code == 0:
        dist.shutdown()
    return code


def work(
    task: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None], tell_phase: Callable[[str], object]
) -> int:
    """Run a stage as one of several processes.

    Args:
        task: ``module``, ``recipe`` and ``out`` of the stage.
        tell: takes the last words: ``state`` (``done``, ``failed``, ``lost`` where another process was missed,
            ``stopped`` by SIGTERM), ``time`` and, of an error, ``kind`` and ``message``.
        tell_phase: takes every phase that is entered.

    Returns:
        exit code.
    """
    phase.tell_to(tell_phase)
    phase.enter("the start")

    def end(code: int, state: str, **more: str) -> int:
        tell({"state": state, "time": time.time(), **more})
        return code

    try:
        dist.setup()
        run_stage(task["module"], task["recipe"], Path(task["out"]))
        dist.barrier()
    except AlignError as error:
        return end(error.exit_code, "failed", kind=type(error).__name__, message=str(error))
    except SystemExit:  # by SIGTERM
        return end(128 + signal.SIGTERM, "stopped")
    except BaseException as error:
        words = {"kind": type(error).__name__, "message": f"{type(error).__name__}: {error}"}
        if dist.is_lost_peer(error):
            return end(1, "lost", **words)
        traceback.print_exc()
        return end(1, "failed", **words)
    finally:
        phase.tell_to(None)
    return end(0, "done")


def _tell(record: Path, words: Mapping[str, Any]) -> None:
    if record.exists():  # the first word stands
        return
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(words))
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
                _tell(record, {"state": "stopped", "time": time.time()})
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
