"""What a process writes on stdout and stderr, sent elsewhere: Python's, its libraries' and its children's alike."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

Send = Callable[[str, str], None]
JOIN = 5.0  # seconds to wait for the last lines: a child that lives on may hold the other end


@contextmanager
def forwarded(send: Send) -> Iterator[None]:
    """Within, whole lines go to ``send(stream, text)``, the stream being ``stdout`` or ``stderr``; all by the end."""
    with ExitStack() as stack:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            stack.enter_context(_forwarded(descriptor, name, send))
        yield


@contextmanager
def _forwarded(descriptor: int, name: str, send: Send) -> Iterator[None]:
    before = getattr(sys, name)
    before.flush()
    kept = os.dup(descriptor)
    reader, writer = os.pipe()
    os.dup2(writer, descriptor)
    os.close(writer)
    stream = os.fdopen(descriptor, "w", buffering=1, closefd=False, errors="backslashreplace")
    setattr(sys, name, stream)
    pump = threading.Thread(target=_pump, args=(reader, name, send), name=f"align-{name}", daemon=True)
    pump.start()
    try:
        yield
    finally:
        stream.flush()
        setattr(sys, name, before)
        os.dup2(kept, descriptor)  # closes the pipe's end here
        os.close(kept)
        pump.join(JOIN)


def _pump(reader: int, name: str, send: Send) -> None:
    rest = b""
    with os.fdopen(reader, "rb", buffering=0) as source:
        while some := source.read(1 << 16):
            whole, newline, rest = (rest + some).rpartition(b"\n")
            if newline:
                send(name, (whole + newline).decode(errors="backslashreplace"))
    if rest:
        send(name, rest.decode(errors="backslashreplace") + "\n")
