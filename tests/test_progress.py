"""What people see while a job goes on: plain lines now and then, with rate and time left, or a bar on a terminal."""

from __future__ import annotations

import sys

import pytest

from align import progress
from align.progress import Progress, clock


def test_plain_lines_come_now_and_then_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("sampling", 1000, "answers") as told:
        for _ in range(25):
            now[0] += 1.0
            told.advance(8)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "sampling: 80/1000 answers, 8 answers/s, 1:55 left",
        "sampling: 160/1000 answers, 8 answers/s, 1:45 left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("scoring", 10, "answers") as told:
        told.advance(10)
    said = capsys.readouterr().err
    assert "scoring" in said
    assert "10/10" in said


def test_clock() -> None:
    assert [clock(s) for s in (0.4, 65, 3600, 7207)] == ["0:00", "1:05", "1:00:00", "2:00:07"]
