"""What does a pool's work in one place, an actor or this process: a sampler and the reward models that read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align.records import Request, Rollout
from align.rollout.backend import Backend, SamplingConfig

if TYPE_CHECKING:
    from align.model.heads import Scorer
    from align.rollout.backend import Weights


class Station:
    """What an actor holds: a sampler and reward models, each made where it is first needed."""

    def __init__(self, sampler: Callable[[], Backend] | None, scorers: Mapping[str, Callable[[], LocalScorer]]) -> None:
        self.sampler = sampler() if sampler else None
        self.makers, self.made = scorers, dict[str, LocalScorer]()

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Rollout]:
        """See :class:`~align.rollout.backend.Backend`."""
        assert self.sampler
        return self.sampler.generate(requests, sampling)

    def load_weights(self, weights: Weights, version: str | None) -> None:
        """See :class:`~align.rollout.backend.Backend`."""
        assert self.sampler
        self.sampler.load_weights(weights, version)

    def score(self, name: str, rows: Sequence[Sequence[int]]) -> list[float]:
        """Logits of a reward model."""
        if name not in self.made:
            self.made[name] = self.makers[name]()
        return self.made[name].score(rows)


class Here:
    """A station, or a backend alone, in this process: its calls one after another."""

    def __init__(self, station: Station | Backend) -> None:
        self.station = station

    def run(
        self,
        method: str,
        work: Sequence[tuple[Any, ...]],
        on_done: Callable[[int, Any], None],
        what: Callable[[int], str] | None = None,
    ) -> None:
        """See :class:`~align.rollout.pool.Crew`."""
        for number, args in enumerate(work):
            on_done(number, getattr(self.station, method)(*args))

    def prepare(self, method: str, *args: Any, what: str | None = None) -> None:
        """See :class:`~align.rollout.pool.Crew`."""
        getattr(self.station, method)(*args)

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value


class LocalScorer:
    """A reward model in this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Logits, one a row; see :func:`align.rollout.scorer.score_rows`."""
        from align.rollout.scorer import score_rows

        return score_rows(self.scorer, rows)
