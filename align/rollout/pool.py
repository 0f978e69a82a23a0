"""Many samplers or scorers as one: in this process, or Ray actors that may be lost and replaced.

    with open_pool(folder, PoolConfig(kind="ray", actors=2)) as pool:
        rollouts = pool.generate(requests, SamplingConfig(max_new_tokens=64))

Requests are dealt in chunks; answers come back in the order of the requests and are the same to the last bit
whatever the number of actors and the losses on the way. The actors score too: ``pool.score("helpful", rows)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias

import pydantic

from align.config import config
from align.errors import ArtifactError
from align.model.config import Dtype, read_hf
from align.progress import Progress
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig

if TYPE_CHECKING:
    from align.rollout.backend import Backend, OnResult, Weights
    from align.rollout.station import LocalScorer, Station

Count: TypeAlias = Annotated[int, pydantic.Field(ge=1)]
Positive: TypeAlias = Annotated[float, pydantic.Field(gt=0)]

PARTS = 4  # a job makes at least, so that a few actors share a small one too
POOLS = 3  # that a Ray started here has room for at once, of one size: samplers and two reward models


@config
class PoolConfig:
    """Who samples, and with what. Numbers are ours."""

    kind: Literal["local", "ray"] = "local"
    engine: Literal["local", "vllm"] = "local"  # what samples in each place; vllm where it is installed, on a GPU
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
def open_pool(policy: Path, config: PoolConfig, scorers: Mapping[str, Path] | None = None) -> Iterator[Pool]:
    """Samplers of a policy folder, which score too; closed at the end, Ray too where this started it.

    Args:
        policy: its folder.
        config: who samples.
        scorers: folders of reward models by name, for :meth:`Pool.score`; each is loaded where it is first asked.
    """
    from align.rollout.station import Station

    named = {name: partial(make_scorer, Path(folder).resolve(), config) for name, folder in (scorers or {}).items()}
    with _open(partial(Station, partial(make_engine, Path(policy).resolve(), config), named), config) as pool:
        yield pool


@contextmanager
def open_scorers(scorer: Path, config: PoolConfig) -> Iterator[Scorers]:
    """A reward model folder alone: ``.score(rows) -> list[float]``; closed as a pool is."""
    from align.rollout.station import Station

    named = {"": partial(make_scorer, Path(scorer).resolve(), config)}
    with _open(partial(Station, None, named), config) as pool:
        yield pool.scorer("")


class Crew(Protocol):
    """Who does a pool's work: :class:`~align.rollout.station.Here`, or a :class:`~align.rollout.fleet.Fleet`."""

    def run(
        self,
        method: str,
        work: Sequence[tuple[Any, ...]],
        on_done: Callable[[int, Any], None],
        what: Callable[[int], str] | None = None,
    ) -> None:
        """Call a method once for each piece of work; ``on_done`` takes number and value of each, in any order."""

    def prepare(self, method: str, *args: Any, what: str | None = None) -> None:
        """Call a method in every place before all later work."""

    def share(self, value: Any) -> Any:
        """What to hand over in place of a large value."""


class Pool:
    """A :class:`~align.rollout.backend.Backend` that deals requests in chunks and scores with reward models too."""

    def __init__(self, crew: Crew, chunk: int, parts: int = PARTS) -> None:
        self.crew, self.chunk, self.parts = crew, chunk, parts

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_result: OnResult | None = None
    ) -> list[Rollout]:
        """Answer every request; ``on_result`` sees the answers of a chunk when it is done.

        Raises:
            DataError: a prompt is empty or leaves no room for an answer.
            RolloutError: an actor failed, or too many were lost; with the first one's cause.
        """
        answers: dict[tuple[int, int], Rollout] = {}

        def take(rollouts: Sequence[Rollout]) -> None:
            for rollout in rollouts:
                answers[rollout.prompt, rollout.sample] = rollout
                if on_result:
                    on_result(rollout)

        self.answer(self.deal(requests), sampling, take)
        return [answers[request.prompt, request.sample] for request in requests]

    def deal(self, requests: Sequence[Request]) -> list[Sequence[Request]]:
        """The requests as they are answered together, whoever does it."""
        return deal(requests, self.chunk, self.parts)

    def answer(
        self,
        chunks: Sequence[Sequence[Request]],
        sampling: SamplingConfig,
        on_chunk: Callable[[Sequence[Rollout]], None],
    ) -> None:
        """Answer chunks as :meth:`deal` gives them, or some of them; nothing is kept.

        Args:
            chunks: each is one call, so that its answers are the same to the last bit whatever else there is.
            sampling: how tokens are drawn.
            on_chunk: takes each chunk's answers as it is done, in no order.
        """

        def name(number: int) -> str:
            return f"prompts {chunks[number][0].prompt} to {chunks[number][-1].prompt}"

        with Progress("sampling", sum(map(len, chunks)), "answers") as progress:

            def done(_: int, rollouts: Sequence[Rollout]) -> None:
                on_chunk(rollouts)
                progress.advance(len(rollouts))

            self.crew.run("generate", [(chunk, sampling) for chunk in chunks], done, name)

    def score(self, scorer: str, rows: Sequence[Sequence[int]]) -> list[float]:
        """Logits of a reward model, one a row; see :func:`align.rollout.scorer.score_rows`.

        Args:
            scorer: its name, as given to :func:`open_pool`.
            rows: encoded prompt and answer, joined.
        """
        chunks = deal(rows, self.chunk, self.parts)
        scores: dict[int, list[float]] = {}
        with Progress(f"scoring {scorer}".strip(), len(rows), "answers") as progress:

            def done(number: int, found: list[float]) -> None:
                scores[number] = found
                progress.advance(len(found))

            first = [sum(map(len, chunks[:number])) for number in range(len(chunks))]
            self.crew.run(
                "score",
                [(scorer, chunk) for chunk in chunks],
                done,
                lambda number: f"rows {first[number]} to {first[number] + len(chunks[number]) - 1}",
            )
        return [score for number in range(len(chunks)) for score in scores[number]]

    def scorer(self, name: str) -> Scorers:
        """One of its reward models."""
        return Scorers(self, name)

    def load_weights(self, weights: Weights, version: str | None = None) -> None:
        """Hand weights to every actor and every later one: a folder's path, or tensors once through the store."""
        if isinstance(weights, Mapping):
            sent: Any = self.crew.share(dict(weights))
        else:
            version, sent = version or weights.name, weights.resolve()
        self.crew.prepare("load_weights", sent, version, what=f"load_weights({version})")


class Scorers:
    """One of a pool's reward models."""

    def __init__(self, pool: Pool, name: str) -> None:
        self.pool, self.name = pool, name

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Logits, one a row; see :func:`align.rollout.scorer.score_rows`."""
        return self.pool.score(self.name, rows)


def deal(work: Sequence[Any], chunk: int, parts: int = PARTS) -> list[Sequence[Any]]:
    """Neighbouring pieces of at most ``chunk``, smaller where there would be fewer than ``parts``.

    By the work alone, never by the number of actors: what is computed together is the same for any number, and
    then so is every last bit, which a forward pass owes to its company.
    """
    size = max(1, min(chunk, math.ceil(len(work) / parts)))
    return [work[start : start + size] for start in range(0, len(work), size)]


def make_engine(folder: Path, config: PoolConfig) -> Backend:
    """The chosen engine around a policy folder.

    Raises:
        LaunchError: vllm was chosen and is not installed.
    """
    _set_threads(config)
    if config.engine == "vllm":
        from align.rollout.vllm import VllmEngine

        return VllmEngine(folder, end_of_answer(folder), config.slots, config.max_len, config.dtype)
    from align.model.weights import load_policy
    from align.rollout.local import LocalEngine

    model = load_policy(folder, config.dtype, config.device).eval().requires_grad_(False)
    return LocalEngine(model, end_of_answer(folder), config.slots, config.max_len, version=folder.name)


def make_scorer(folder: Path, config: PoolConfig) -> LocalScorer:
    """A reward model folder's scorer."""
    from align.model.weights import load_scorer
    from align.rollout.station import LocalScorer

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
def _open(make: Callable[[], Station], config: PoolConfig) -> Iterator[Pool]:
    if config.kind == "local":
        from align.rollout.station import Here

        yield Pool(Here(make()), config.chunk)
        return
    from align.rollout import actors
    from align.rollout.fleet import Fleet

    cpus = POOLS * max(1, math.ceil(config.actors * config.cpus))
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
            yield Pool(fleet, config.chunk)
        finally:
            fleet.close()
