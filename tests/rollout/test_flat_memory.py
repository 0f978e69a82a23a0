"""However long the job, the pool holds what is under way: over 10,000 prompts no process grows with it."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from align.records import Request, Rollout
from align.rollout import actors
from align.rollout.backend import SamplingConfig
from align.rollout.fleet import Fleet
from align.rollout.journal import fill, read
from align.rollout.pool import Pool
from tests.fakes import FakeBackend

SAMPLING = SamplingConfig(max_new_tokens=256)
PROMPTS, SAMPLES, LENGTH = 10_000, 4, 200


class LongWinded(FakeBackend):
    """Answers as long as real ones."""

    def answer(self, request: Request) -> Rollout:
        tokens = tuple(1000 + (request.prompt * 7 + request.sample + at) % 30_000 for at in range(LENGTH))
        return Rollout(request.prompt, request.sample, tokens, (-0.125,) * LENGTH, "stop", self.version)


def resident(pid: int) -> float:
    """MB of a process that are its own."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1000
    raise AssertionError(pid)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_memory_is_flat_over_ten_thousand_prompts(tmp_path: Path) -> None:
    requests = [Request(p, (1, 2, 3), k) for p in range(PROMPTS) for k in range(SAMPLES)]
    marks: list[tuple[float, ...]] = []
    fleet = Fleet(
        LongWinded,
        size=2,
        placement=actors.Placement(1, 0),
        timeout=60,
        start_timeout=60,
        retries=0,
        in_flight=2,
    )

    class Watched(Pool):
        """Looks at its processes while it works."""

        def answer(self, chunks, sampling, on_chunk):  # type: ignore[no-untyped-def]
            seen = 0

            def look(rollouts: Sequence[Rollout]) -> None:
                nonlocal seen
                on_chunk(rollouts)
                seen += len(rollouts)
                if seen % 4000 < len(rollouts):
                    gc.collect()
                    pids = [os.getpid(), *(actors.pid(member.actor) for member in fleet.members)]
                    marks.append(tuple(resident(pid) for pid in pids))

            super().answer(chunks, sampling, look)

    try:
        fill(Watched(fleet, chunk=100), requests, SAMPLING, tmp_path / "journal.jsonl")
    finally:
        fleet.close()
    assert len(marks) == PROMPTS * SAMPLES // 4000
    print("MB of the driver and two actors:", *(" / ".join(f"{mb:.0f}" for mb in mark) for mark in marks))
    for early, late in zip(marks[1], marks[-1], strict=True):  # at 2,000 prompts and at 10,000
        assert late < early + 8, marks
    assert (tmp_path / "journal.jsonl").stat().st_size > 60e6, "what a job that keeps its answers would hold"
    assert sum(1 for _ in read(tmp_path / "journal.jsonl")) == PROMPTS * SAMPLES
