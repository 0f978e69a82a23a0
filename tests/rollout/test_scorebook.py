"""A book of scores: nothing is read twice, and what is read together does not depend on how often a job was killed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from align.errors import RolloutError
from align.rollout import scorebook
from align.rollout.scorebook import ScoreBook

ROWS = [[number, number + 1] for number in range(10)]


class Reader:
    """Scores a row by its sum and, as a forward pass does, a little by its company; dies when it is told to."""

    def __init__(self, calls: int = 99) -> None:
        self.calls, self.read, self.opened = calls, list[Sequence[Sequence[int]]](), 0

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        if len(self.read) == self.calls:
            raise KeyboardInterrupt
        self.read.append(rows)
        return [sum(row) + len(rows) * 1e-7 + rows[0][0] * 1e-9 for row in rows]

    @contextmanager
    def open(self) -> Iterator[Reader]:
        self.opened += 1
        yield self


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorebook, "AT_ONCE", 4)


def test_rows_alike_are_read_once_and_known_ones_never(tmp_path: Path) -> None:
    reader, book = Reader(), ScoreBook(tmp_path / "book")
    book.know([ROWS[3]], [-5.0])
    found = book.score([ROWS[1], ROWS[3], ROWS[1], ROWS[2]], reader.open())
    assert found[1] == -5.0
    assert found[0] == found[2] == pytest.approx(3, abs=1e-5)
    assert reader.read == [[ROWS[1], ROWS[2]]]
    assert book.fresh == 2
    again = Reader()
    assert book.score([ROWS[2], ROWS[1]], again.open()) == [found[3], found[0]]
    assert again.opened == 0, "nothing to read: no model is loaded"


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_job_reads_on_and_gives_the_same_to_the_last_bit(calls: int, tmp_path: Path) -> None:
    whole = ScoreBook(tmp_path / "whole").score(ROWS, Reader().open())
    dying = Reader(calls)
    with pytest.raises(KeyboardInterrupt):
        ScoreBook(tmp_path / "cut").score(ROWS, dying.open())
    with (tmp_path / "cut").open("a") as file:
        file.write('[["00')  # the line that the kill cut short
    rest = Reader()
    book = ScoreBook(tmp_path / "cut")
    assert book.score(ROWS, rest.open()) == whole
    assert [row for piece in (*dying.read, *rest.read) for row in piece] == ROWS
    assert book.fresh == len(ROWS), "told of in the manifest: must not depend on the kill"
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_first_reading_stays(tmp_path: Path) -> None:
    """A row read with other company later: rows written with the first score keep it, in this start and the next."""
    book = ScoreBook(tmp_path / "book")
    first = book.score(ROWS[:2], Reader().open())
    later = book.score(ROWS[1:5], Reader().open())
    assert later[0] == first[1]
    assert ScoreBook(tmp_path / "book").score(ROWS[:2], Reader().open()) == first


def test_a_score_that_is_no_number_stops_the_job(tmp_path: Path) -> None:
    class Broken(Reader):
        def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
            return [math.nan, *[0.0] * (len(rows) - 1)]

    book = ScoreBook(tmp_path / "scores-abc.jsonl")
    with pytest.raises(RolloutError, match="scores-abc: 1 of 3 scores are not finite"):
        book.score(ROWS[:3], Broken().open())
    assert ScoreBook(tmp_path / "scores-abc.jsonl").score(ROWS[:1], Reader().open())[0] == pytest.approx(1, abs=1e-5)
