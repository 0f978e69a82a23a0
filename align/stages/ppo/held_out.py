"""Held-out prompts, judged now and then: which policy was best, and whether it is time to stop."""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from align.engine.clock import Clock
    from align.stages.ppo.collect import Collector, Questions, Told
    from align.stages.ppo.models import Models
    from align.stages.ppo.recipe import Recipe

STEP = -1  # addresses the randomness of held-out answers: the same numbers at every judgement


@dataclass(slots=True)
class Standing:
    """What was judged so far; it goes into checkpoints as JSON."""

    floor: float = math.nan  # what an answer without EOS counts, logits: the lowest score of the first judgement
    best: float = -math.inf  # mean combined score, logits
    iteration: int = -1  # iterations done when the best was judged
    misses: int = 0  # judgements since


class HeldOut:
    """The judge of a run and the place where its best policy is kept."""

    def __init__(self, recipe: Recipe, models: Models, questions: Questions, work: Path) -> None:
        """Read nothing yet.

        Args:
            recipe: how often, how many, how long.
            models: whose policy is judged, and by whom.
            questions: held out.
            work: folder of the run; the best policy is kept there.
        """
        assert recipe.held_out
        self.recipe, self.config, self.models, self.questions = recipe, recipe.held_out, models, questions
        self.work = work
        self.standing = Standing()

    def judge(self, done: int, collector: Collector, clock: Clock) -> dict[str, float]:
        """Judge the policy where it is time to, and keep it where it is the best so far.

        Args:
            done: iterations.
            collector: samples the answers.
            clock: takes the time of ``held_out``.

        Returns:
            what is to be logged; nothing where it is not time.
        """
        if done % self.config.every and done != self.recipe.ppo.iterations:
            return {}
        asked = [(i, k) for i in range(len(self.questions.prompts)) for k in range(self.config.samples)]
        told = collector.answer(asked, STEP, self.questions, clock)
        seen = clock.time("held_out", self._score, told)
        standing = self.standing
        if seen["held_out/score"] > standing.best:
            standing.best, standing.iteration, standing.misses = seen["held_out/score"], done, 0
            clock.time("held_out", self.models.save_policy, self.best)
        else:
            standing.misses += 1
        return seen

    @property
    def verdict(self) -> str | None:
        """Why the run ends here; None: it goes on."""
        patience, standing = self.config.patience, self.standing
        if patience is None or standing.misses < patience:
            return None
        return (
            f"held-out score no better than {standing.best:.4g} (after iteration {standing.iteration}) "
            f"in {standing.misses} judgements"
        )

    @property
    def best(self) -> Path:
        """Where the best policy lies."""
        return self.work / f"best-{self.standing.iteration:08d}"

    def forget_older(self) -> None:
        """Remove earlier bests, once no checkpoint that a run would go on from knows them. Rank 0 alone acts."""
        from align.engine import dist

        if dist.is_main():
            for folder in self.work.glob("best-*"):
                if folder != self.best:
                    shutil.rmtree(folder)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; minus infinity and NaN are JSON to Python."""
        return dataclasses.asdict(self.standing)

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.standing = Standing(**state)

    def _score(self, told: Sequence[Told]) -> dict[str, float]:
        import torch

        from align.stages.ppo.collect import gathered_answers

        said = gathered_answers(told, self.questions)
        scores = self.models.score(said.prompts, said.answers, said.is_safety)
        if math.isnan(self.standing.floor):
            self.standing.floor = float(scores.combined.min())
        # reward models have seen no answer that never ends, and may score it above all others
        counted = torch.where(said.finished, scores.combined, torch.full_like(scores.combined, self.standing.floor))
        return {
            "held_out/score": float(counted.mean()),
            "held_out/helpful": float(scores.helpful.mean()),
            "held_out/safety": float(scores.safety.mean()),
            "held_out/tokens": sum(map(len, said.answers)) / len(said.answers),
            "held_out/no_eos": float((~said.finished).float().mean()),
        }
