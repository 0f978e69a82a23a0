"""Rollouts written down as they come, so that a killed job goes on without sampling anything twice.

A line holds what the sampler answers in one call: a pool's chunk, or one answer of a plain engine. Chunks depend on
the requests and the recipe alone, so what a resumed job samples is dealt, and comes out, as if nothing had happened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from align.errors import ArtifactError
from align.files import whole_lines
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig


class Sampler(Protocol):
    """What a journal needs of a backend."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        on_result: Callable[[Rollout], None] | None = None,
    ) -> list[Rollout]:
        """Answers in the order of the requests; ``on_result`` sees each as it is done."""


@runtime_checkable
class Dealer(Protocol):
    """What it makes use of in a pool."""

    def deal(self, requests: Sequence[Request]) -> list[Sequence[Request]]:
        """The requests as they are answered together."""

    def answer(
        self,
        chunks: Sequence[Sequence[Request]],
        sampling: SamplingConfig,
        on_chunk: Callable[[Sequence[Rollout]], None],
    ) -> None:
        """Answer chunks; ``on_chunk`` takes each one's answers as it is done."""


def generate(sampler: Sampler, requests: Sequence[Request], sampling: SamplingConfig, path: Path) -> list[Rollout]:
    """Answer the requests that the journal at ``path`` has not, writing each down when it is done.

    The journal belongs to one (policy, sampling) of one job: name it so.

    Returns:
        One rollout a request, in the order of the requests.

    Raises:
        ArtifactError: a whole line of the journal is none of ours.
    """
    fill(sampler, requests, sampling, path)
    done = {(r.prompt, r.sample): r for r in read(path)} if requests else {}
    return [done[r.prompt, r.sample] for r in requests]


def fill(sampler: Sampler, requests: Sequence[Request], sampling: SamplingConfig, path: Path) -> None:
    """As :func:`generate`, but the answers are kept in the file alone: memory does not grow with the job."""
    done = {(rollout.prompt, rollout.sample) for rollout in read(path)}
    chunks = sampler.deal(requests) if isinstance(sampler, Dealer) else [[request] for request in requests]
    left = [chunk for chunk in chunks if any((r.prompt, r.sample) not in done for r in chunk)]
    if not left:
        return
    with path.open("a", encoding="utf-8") as file:

        def write(rollouts: Sequence[Rollout]) -> None:
            file.write(json.dumps([_plain(rollout) for rollout in rollouts]) + "\n")
            file.flush()  # to the system: what this process dies of does not touch it

        if isinstance(sampler, Dealer):
            sampler.answer(left, sampling, write)
        else:
            sampler.generate([r for chunk in left for r in chunk], sampling, lambda rollout: write([rollout]))
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Rollout]:
    """What is written at ``path``, less a last line that a kill cut short: the file is cut back to whole lines.

    Raises:
        ArtifactError: a whole line is none of ours.
    """
    for number, line in enumerate(whole_lines(path), 1):
        try:
            found = json.loads(line)
            if not isinstance(found, list):
                raise TypeError(f"found a {type(found).__name__}, expected a list of rollouts")
            rollouts = [
                Rollout(prompt, sample, tuple(tokens), tuple(logprobs), finish, version)
                for prompt, sample, tokens, logprobs, finish, version in found
            ]
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{path}:{number}: no line of a journal ({error}); delete the file") from error
        yield from rollouts


def _plain(rollout: Rollout) -> list[object]:
    return [rollout.prompt, rollout.sample, rollout.tokens, rollout.logprobs, rollout.finish, rollout.version]
