"""How far a job is, for people: a bar on a terminal, elsewhere a line now and then. On stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_EVERY = 10.0  # seconds between plain lines


class Progress:
    """``with Progress("sampling", 1000, "answers") as progress: … progress.advance(8)``."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        """Begin.

        Args:
            label: in front.
            total: units in all.
            unit: their name, in the plural.
        """
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._began = self._said = time.monotonic()
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            self._bar, self._task = bar(label, total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """``count`` units more are done."""
        self.done += count
        now = time.monotonic()
        rate = self.done / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, shown=f"{rate:.3g} {self.unit}/s")
        elif now - self._said >= LINE_EVERY:
            left = clock((self.total - self.done) / rate)
            line = f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.3g} {self.unit}/s, {left} left"
            print(line, file=sys.stderr, flush=True)
            self._said = now


def bar(label: str, total: int, start: int = 0) -> tuple[Bar, TaskID]:
    """A started bar with the count, the time left and a text field ``shown``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    made = Bar(*columns, TextColumn("{task.fields[shown]}"), console=Console(stderr=True))
    task = made.add_task(label, total=total, completed=start, shown="")
    made.start()
    return made, task


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, or hours too: ``1:05``, ``2:00:07``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
