"""Many samplers or scorers as one: in this process, or Ray actors that may be lost and replaced.

    with open_pool(folder, PoolConfig(kind="ray", actors=2)) as pool:
        rollouts = pool.generate(requests, SamplingConfig(max_new_tokens=64))

Requests are dealt in chunks; answers come back in the order of the requests and are the same whatever the kind,
the number of actors or the losses on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pydantic

from align.config import config
from align.errors import ArtifactError
from align.model.config import Dtype, read_hf
from align.records import Request, Rollout
from align.rollout.backend import Backend, SamplingConfig

if TYPE_CHECKING:
    from align.model.heads import Scorer
    from align.rollout.backend import OnResult, Weights
    from align.rollout.fleet import Fleet
    from align.rollout.local import LocalEngine

Count: TypeAlias = Annotated[int, pydantic.Field(ge=1)]
Positive: TypeAlias = Annotated[float, pydantic.Field(gt=0)]
Pool: TypeAlias = Backend  # what open_pool gives, of either kind


@config
class PoolConfig:
    """Who samples, and with what. Numbers are ours."""

    kind: Literal["local", "ray"] = "local"
    actors: Count = 2
    threads: Count = 1  # of each actor's tensor operations
    slots: Count = 64  # answers an engine has under way at once
    max_len: Count | None = None  # tokens of context; the model's own
    dtype: Dtype = "fp32"
    device: str = "cpu"
    chunk: Count = 256  # requests, or rows to score, in a call
    in_flight: Count = 2  # calls an actor holds at once
    timeout_s: Positive = 600.0  # of a call: sampling or scoring a chunk, taking weights
    start_timeout_s: Positive = 300.0  # of coming up and loading the first weights
    retries: Annotated[int, pydantic.Field(ge=0)] = 2  # of a call whose actor was lost or silent
    address: str | None = None  # of a running cluster; none starts one on this machine
    cpus: Annotated[float, pydantic.Field(ge=0)] = 1.0  # an actor asks of the cluster
    gpus: Annotated[float, pydantic.Field(ge=0)] = 0.0
    object_store_mb: Annotated[int, pydantic.Field(ge=80)] = 200  # of a cluster started here


@contextmanager
def open_pool(policy: Path, config: PoolConfig) -> Iterator[Pool]:
    """Samplers of a policy folder, closed at the end; Ray too where this started it."""
    make = partial(make_engine, Path(policy), config)
    if config.kind == "local":
        yield make()
        return
    with _fleet(make, config) as fleet:
        yield RayPool(fleet, config.chunk)


@contextmanager
def open_scorers(scorer: Path, config: PoolConfig) -> Iterator[LocalScorer | RayScorers]:
    """Scorers of a reward model folder: ``.score(rows) -> list[float]``; closed as a pool is."""
    make = partial(make_scorer, Path(scorer), config)
    if config.kind == "local":
        yield make()
        return
    with _fleet(make, config) as fleet:
        yield RayScorers(fleet, config.chunk)


class RayPool:
    """A :class:`~align.rollout.backend.Backend` spread over actors."""

    def __init__(self, fleet: Fleet, chunk: int) -> None:
        self.fleet, self.chunk = fleet, chunk

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_result: OnResult | None = None
    ) -> list[Rollout]:
        """Answer every request; ``on_result`` sees the answers of a chunk when it is done.

        Raises:
            DataError: a prompt is empty or leaves no room for an answer.
            RolloutError: an actor failed, or too many were lost; with the first one's cause.
        """
        chunks = deal(requests, self.chunk, len(self.fleet.members))

        def done(_: int, rollouts: list[Rollout]) -> None:
            for rollout in rollouts:
                if on_result:
                    on_result(rollout)

        def name(number: int) -> str:
            first, last = chunks[number][0], chunks[number][-1]
            return f"prompts {first.prompt} to {last.prompt}"

        answers = self.fleet.run("generate", [(chunk, sampling) for chunk in chunks], done, name)
        return [rollout for chunk in answers for rollout in chunk]

    def load_weights(self, weights: Weights, version: str | None = None) -> None:
        """Hand weights to every actor and every later one: a folder's path, or tensors once through the store."""
        from align.rollout import actors

        sent = actors.share(dict(weights)) if isinstance(weights, Mapping) else Path(weights)
        self.fleet.prepare("load_weights", sent, version)


class LocalScorer:
    """A reward model in this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Logits, one a row; see :func:`align.rollout.scorer.score_rows`."""
        from align.rollout.scorer import score_rows

        return score_rows(self.scorer, rows)


class RayScorers:
    """A reward model spread over actors."""

    def __init__(self, fleet: Fleet, chunk: int) -> None:
        self.fleet, self.chunk = fleet, chunk

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Logits, one a row; see :func:`align.rollout.scorer.score_rows`."""
        chunks = deal(rows, self.chunk, len(self.fleet.members))
        scores = self.fleet.run("score", [(chunk,) for chunk in chunks])
        return [score for chunk in scores for score in chunk]


def deal(work: Sequence[Any], chunk: int, actors: int) -> list[Sequence[Any]]:
    """Neighbouring pieces of at most ``chunk``, smaller where that lets every actor have two."""
    size = max(1, min(chunk, math.ceil(len(work) / (2 * actors))))
    return [work[start : start + size] for start in range(0, len(work), size)]


def make_engine(folder: Path, config: PoolConfig) -> LocalEngine:
    """The in-repo engine around a policy folder."""
    from align.model.weights import load_policy
    from align.rollout.local import LocalEngine

    _set_threads(config)
    model = load_policy(folder, config.dtype, config.device).eval().requires_grad_(False)
    return LocalEngine(model, end_of_answer(folder), config.slots, config.max_len, version=folder.name)


def make_scorer(folder: Path, config: PoolConfig) -> LocalScorer:
    """A reward model folder's scorer."""
    from align.model.weights import load_scorer

    _set_threads(config)
    return LocalScorer(load_scorer(folder, config.dtype, config.device).eval().requires_grad_(False))


def end_of_answer(folder: Path) -> int | list[int]:
    """What ends an answer: a token, or several, from a policy folder's ``config.json``."""
    found = read_hf(folder).get("eos_token_id")
    if isinstance(found, int):
        return found
    if isinstance(found, list) and found and all(isinstance(token, int) for token in found):
        return found
    where = folder / "config.json"
    raise ArtifactError(f"{where}: eos_token_id: found {found!r}, expected a token id or a list of them")


def _set_threads(config: PoolConfig) -> None:
    if config.kind == "ray":  # in this process the caller decides
        import torch

        torch.set_num_threads(config.threads)


@contextmanager
def _fleet(make: Any, config: PoolConfig) -> Iterator[Fleet]:
    from align.rollout import actors
    from align.rollout.fleet import Fleet

    cpus = max(1, math.ceil(config.actors * config.cpus))
    with actors.session(config.address, cpus, config.object_store_mb):
        fleet = Fleet(
            make,
            size=config.actors,
            placement=actors.Placement(config.cpus, config.gpus),
            timeout=config.timeout_s,
            start_timeout=config.start_timeout_s,
            retries=config.retries,
            in_flight=config.in_flight,
        )
        try:
            yield fleet
        finally:
            fleet.close()
