"""An actor between the workers of a Ray cluster and the command that started them: what they say, and their last words.

It gathers what torchrun's workers leave in files and write on the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Desk:
    """What has been told so far; calls of one worker run in the order in which they were made."""

    def __init__(self) -> None:
        self.workers: dict[int, Any] = {}
        self.said: list[tuple[str, str]] = []
        self.phases: dict[int, str] = {}
        self.records: dict[int, Mapping[str, Any]] = {}

    def join(self, rank: int, worker: Any) -> None:
        """A worker is up; ``worker`` is its actor."""
        self.workers[rank] = worker

    def say(self, stream: str, text: str) -> None:
        """Whole lines, of ``stdout`` or ``stderr``."""
        self.said.append((stream, text))

    def enter(self, rank: int, phase: str) -> None:
        """What a worker is at."""
        self.phases[rank] = phase

    def tell(self, rank: int, record: Mapping[str, Any]) -> None:
        """A worker's last words, see :func:`align.engine.worker.work`."""
        self.records[rank] = record

    def take(self) -> tuple[list[tuple[str, str]], dict[int, str], dict[int, Mapping[str, Any]]]:
        """What was said since the last call, and every phase and record."""
        said, self.said = self.said, []
        return said, self.phases, self.records

    def everyone(self) -> list[Any]:
        """The actors of the workers that came up."""
        return list(self.workers.values())
