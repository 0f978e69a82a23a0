"""Which error a user reads when one of several processes failed: the first cause, told once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from align import errors
from align.errors import AlignError, LaunchError

GOES_ON = "the same command goes on from the last checkpoint"


@dataclass(slots=True)
class Heard:
    """What the launcher has heard of its workers, by rank."""

    processes: int
    records: dict[int, Mapping[str, Any]] = field(default_factory=dict)  # last words, see ``worker.work``
    phases: dict[int, str] = field(default_factory=dict)  # what each was at last
    dead: dict[int, str] = field(default_factory=dict)  # who ended without last words, and of what


def verdict(heard: Heard, otherwise: str) -> AlignError:
    """The error to show.

    Args:
        heard: of the workers.
        otherwise: why they could not even be started, where no worker has anything to tell.

    Returns:
        ``LaunchError`` of a rank that was killed; else what the first failing rank raised, of its own class where it
        is one of ours.
    """
    ranks = heard.processes
    if heard.dead:
        rank, why = min(heard.dead.items())
        met = [
            f"rank {other} lost its connection{_in(heard.phases.get(other))}"
            for other, record in sorted(heard.records.items())
            if record["state"] == "lost"
        ]
        told = [f"rank {rank} of {ranks} was killed{_in(heard.phases.get(rank))} ({why})", *met, GOES_ON]
        return LaunchError("; ".join(told))
    order = {"failed": 0, "lost": 1}
    words = [record for record in heard.records.items() if record[1]["state"] in order]
    if not words:
        return LaunchError(f"{ranks} processes could not be started: {otherwise}")
    rank, record = min(words, key=lambda item: (order[item[1]["state"]], item[1]["time"], item[0]))
    message = f"rank {rank} of {ranks}: {record['message']}"
    kind = getattr(errors, record["kind"], None)
    if isinstance(kind, type) and issubclass(kind, AlignError):
        return kind(message)
    return LaunchError(f"{message}{_in(heard.phases.get(rank))}")


def _in(phase: str | None) -> str:
    return f" in {phase}" if phase else ""
