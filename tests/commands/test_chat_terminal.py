"""`align chat` through a pseudo-terminal, whose Ctrl-C is a signal to the program."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from align.commands.chat import AGAIN
from align.data.schema import read_dialogs
from align.records import Message
from tests.commandline import make_policy, make_reward_model

pytest.importorskip("pty")

# 96 tokens of context hold no long answer, so the answers are slowed down and made of words
CODE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
import align.commands.chat as chat
def slow(model, prompt, eos, sampling, seed, turn):
    from align.data.tokenizer import Tokenizer
    tokens = Tokenizer(sys.argv[2] + "/tokenizer.model").encode("it is noon " * (1 if turn == 0 else 500))
    for token in tokens:
        yield token
        time.sleep(0.05)
chat.stream = slow
from align.cli import main
main()
"""
STRIKE = b"\x03"  # what Ctrl-C sends


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self._end, inner = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, "chat", *map(str, arguments)], preexec_fn=lambda: os.login_tty(inner)
        )
        os.close(inner)
        self._left = b""  # read, and not yet asked for

    def type(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def until(self, wanted: str, seconds: float = 60.0) -> list[float]:
        """Read up to what is wanted; when each piece of it came."""
        came, end = [], time.monotonic() + seconds
        while wanted.encode() not in self._left:
            assert time.monotonic() < end, (wanted, self._left)
            if select.select([self._end], [], [], 0.2)[0]:
                self._left += os.read(self._end, 4096)
                came.append(time.monotonic())
        self._left = self._left.partition(wanted.encode())[2]
        return came

    def strike(self) -> None:
        """Type Ctrl-C once the program sleeps: CPython overlooks a signal that comes just before it waits for keys."""
        state = Path(f"/proc/{self.process.pid}/stat")
        while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)
        self.type(STRIKE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    make_policy(folder / "policy")
    make_policy(folder / "other")
    make_reward_model(folder / "rm")
    return folder


@pytest.fixture
def terminal(shelf: Path) -> Iterator[Terminal]:
    found = Terminal(shelf / "policy", "--system", "Be brief.", "--score", shelf / "rm")
    try:
        yield found
    finally:
        found.close()


def test_it_streams_survives_ctrl_c_and_saves_what_the_schema_reads(
    terminal: Terminal, shelf: Path, tmp_path: Path
) -> None:
    terminal.until("> ")
    terminal.type(b"Hello?\n")
    came = terminal.until("[rm ")
    assert came[-1] - came[0] > 0.1, "piece by piece, not at the end"
    assert len(came) > 3
    terminal.until("> ")
    terminal.type(f"/policy {shelf / 'other'}\n".encode())
    terminal.until("> ")
    terminal.type(b"And now?\n")
    terminal.until("it is noon it is")
    terminal.strike()
    terminal.until(" …")
    terminal.until("> ")
    assert terminal.process.poll() is None, "the answer was stopped, not the program"
    path = tmp_path / "talk.jsonl"
    terminal.type(f"/save {path}\n".encode())
    terminal.until("1 dialogue")
    (saved,) = read_dialogs(path)
    assert saved.messages[:4] == (
        Message("system", "Be brief."), Message("user", "Hello?"), Message("assistant", "it is noon"),
        Message("user", "And now?"),
    )  # fmt: skip
    assert saved.messages[4].content.startswith("it is noon it is")
    first, second = json.loads(path.read_text())["meta"]["answers"]
    assert "stopped" not in first
    assert second["stopped"] is True
    assert [Path(a["policy"]).name for a in (first, second)] == ["policy", "other"]
    assert list(first["scores"]) == [str(shelf / "rm")]

    # at the prompt one Ctrl-C is forgiven, also after another line; a second one leaves
    terminal.until("> ")
    for _ in range(2):
        terminal.strike()
        terminal.until(AGAIN)
        terminal.until("> ")
        terminal.type(b"/policy\n")
        terminal.until("> ")
    assert terminal.process.poll() is None
    terminal.strike()
    terminal.until(AGAIN)
    terminal.until("> ")
    terminal.strike()
    assert terminal.process.wait(timeout=60) == 0
