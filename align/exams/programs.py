"""Programs run apart from this one: a process each, an empty folder each, with limits, judged by a token.

A program has passed where its process handed back a random token that is given to it alone, and which the process
writes only when solution and test have run to their end: an exit code says nothing, so ending early is no pass.

What is kept from it, :mod:`align.exams.guarded` says. Where the system allows it (``unshare``, as root or with
user namespaces) the process also has no network and its own space of processes, all of which end with it. This is no
place to run a program that somebody wrote to break out: that needs a virtual machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from align.config import config
from align.errors import RunError

GUARDED = Path(__file__).with_name("guarded.py")
MIB = 2**20
SPACES = ("--net", "--pid", "--ipc", "--fork", "--kill-child")
Network = Literal["none", "open"]
WORKS = (
    "import collections, hashlib, math, re, typing\nclass A(typing.NamedTuple):\n    x: int\n",
    "assert A(3).x == 3",
)
WAITING = 6  # a busy machine is no failure, a program that sleeps is one
FAILS = ("x = 1", "assert x == 2")


@config
class Limits:
    """What a program may use."""

    seconds: Annotated[int, pydantic.Field(ge=1, le=3600)] = (
        10  # of processor time; WAITING times that from start to end
    )
    memory_mib: Annotated[int, pydantic.Field(ge=64)] = 1024  # address space, Python's own included
    file_mib: Annotated[int, pydantic.Field(ge=0)] = 1  # of each file that it writes
    workers: Annotated[int, pydantic.Field(ge=1)] = 2  # programs at once


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a program."""

    result: Literal["passed", "failed", "timed out", "out of memory", "ended early"]
    detail: str = ""  # the error's type and text, or the exit code


def run_all(programs: Sequence[tuple[str, str]], limits: Limits) -> list[Ran]:
    """Run (solution, test) pairs, several at once; results in order.

    Raises:
        RunError: programs cannot be run on this machine: one that must pass does not, or one that must fail does.
    """
    check(limits)
    with ThreadPoolExecutor(limits.workers) as threads:
        return list(threads.map(lambda pair: run(pair[0], pair[1], limits), programs))


def check(limits: Limits) -> None:
    """Refuse to go on where every program would fail, or none.

    Raises:
        RunError: see :func:`run_all`.
    """
    for pair, expected in ((WORKS, "passed"), (FAILS, "failed")):
        found = run(pair[0], pair[1], limits)
        if found.result != expected:
            raise RunError(
                f"programs cannot be run with these limits: one that should have {expected} {found.result} "
                f"({found.detail or 'no more is known'}); {limits}"
            )


def run(solution: str, test: str, limits: Limits) -> Ran:
    """Run one program; see the module's text."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="align-program-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        task = {
            "folder": folder, "solution": solution, "test": test, "token": token, "memory": limits.memory_mib * MIB,
            "seconds": limits.seconds, "file_size": limits.file_mib * MIB,
        }  # fmt: skip
        said, code, spent = _converse(task, WAITING * limits.seconds)
    if code is None:
        return Ran("timed out", f"after {WAITING * limits.seconds} seconds")
    if said == token.encode():
        return Ran("passed")
    text = said.decode("utf-8", "replace")
    if text.startswith("failed: "):
        return Ran("failed", text.removeprefix("failed: "))
    if text == "out of memory":
        return Ran("out of memory")
    # a signal ended it, which some versions of ``unshare`` tell as an exit code of their own
    if code != 0 and spent > limits.seconds - 0.1:
        return Ran("timed out", f"after {limits.seconds} seconds of processor time")
    return Ran("ended early", f"exit code {code}")


def _converse(task: Mapping[str, object], seconds: float) -> tuple[bytes, int | None, float]:
    """Start a process, give it its task, and see it end, by force where it has not after so many seconds.

    Returns:
        Its report, its exit code (None where it was ended by force), the processor time it took, seconds.
    """
    until = time.monotonic() + seconds
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*_spaces(), sys.executable, "-I", "-S", "-B", "-X", "utf8", str(GUARDED)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,
    )
    os.close(writing)
    try:
        with contextlib.suppress(BrokenPipeError):
            assert process.stdin is not None
            process.stdin.write(json.dumps({**task, "report": writing}).encode() + b"\n")
            process.stdin.close()
        said = _read(reading, until)
        code, spent = _ended(process, until)
    finally:
        os.close(reading)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return said, code, spent


def _read(reading: int, until: float) -> bytes:
    """What comes until the other side closes, or time is up."""
    found = b""
    while (left := until - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        part = os.read(reading, 4096)
        if not part:
            break
        found = (found + part)[:4096]
    return found


def _ended(process: subprocess.Popen[bytes], until: float) -> tuple[int | None, float]:
    """Exit code and processor time of a process that ends by itself before time is up; else None."""
    while time.monotonic() < until:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime
        time.sleep(0.002)
    return None, 0.0


def network() -> Network:
    """Whether programs have a network here."""
    return "none" if _spaces() else "open"


@functools.cache
def _spaces() -> tuple[str, ...]:
    """The command that gives a process spaces of its own, or nothing where the system does not allow it."""
    command = shutil.which("unshare")
    if command is None:
        return ()
    # root goes without a space of users: in it there would be no "nobody" to become
    rights = () if os.geteuid() == 0 else ("--user", "--map-current-user")
    prefix = (command, *rights, *SPACES)
    tried = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=30)
    return prefix if tried.returncode == 0 else ()
