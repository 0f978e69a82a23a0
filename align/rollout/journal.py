"""Rollouts written down as they come, so that a killed job goes on without sampling anything twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig


class Sampler(Protocol):
    """What a journal needs of a pool or a backend."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        on_result: Callable[[Rollout], None] | None = None,
    ) -> list[Rollout]:
        """Answers in the order of the requests; ``on_result`` sees each as it is done."""


def generate(sampler: Sampler, requests: Sequence[Request], sampling: SamplingConfig, path: Path) -> list[Rollout]:
    """Answer the requests that the journal at ``path`` has not, writing each down when it is done.

    The journal belongs to one (policy, sampling) of one job: name it so.

    Returns:
        One rollout a request, in the order of the requests.
    """
    done = _read(path)
    rest = [r for r in requests if (r.prompt, r.sample) not in done]
    if rest:
        with path.open("a", encoding="utf-8") as file:

            def write(rollout: Rollout) -> None:
                done[rollout.prompt, rollout.sample] = rollout
                file.write(_line(rollout))

            sampler.generate(rest, sampling, on_result=write)
            file.flush()
            os.fsync(file.fileno())
    return [done[r.prompt, r.sample] for r in requests]


def _line(rollout: Rollout) -> str:
    values = [
        rollout.prompt,
        rollout.sample,
        rollout.tokens,
        rollout.logprobs,
        rollout.finish,
        rollout.version,
    ]
    return json.dumps(values) + "\n"


def _read(path: Path) -> dict[tuple[int, int], Rollout]:
    """What is written, less a last line that a kill cut short; the file is cut back to whole lines."""
    if not path.exists():
        return {}
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    done = {}
    for line in whole.splitlines():
        prompt, sample, tokens, logprobs, finish, version = json.loads(line)
        done[prompt, sample] = Rollout(prompt, sample, tuple(tokens), tuple(logprobs), finish, version)
    return done
