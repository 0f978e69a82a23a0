"""Prompts -> a policy that maximises the reward within a KL penalty of where it started (paper section 3.2.3).

The recipe is in ``recipe.py``; ``run`` is the experiment: collect (``collect.py``) -> appraise -> improve
(``learn.py``) -> record, with ``held_out.py`` to judge and ``bounds.py`` to stop.
"""

from __future__ import annotations

from pathlib import Path

from align.stages.ppo.recipe import Recipe as Recipe


def run(recipe: Recipe, out: Path) -> None:
    """Collect, appraise, improve, record; publish the policy at ``out``."""
    from align.engine.clock import Clock
    from align.errors import TrainingError
    from align.stages.ppo.bounds import broken
    from align.stages.ppo.learn import appraise, improve
    from align.stages.ppo.loop import Loop

    with Loop(recipe, out) as loop:
        for iteration in loop.left():
            clock = Clock(f"iteration {iteration + 1} of {recipe.ppo.iterations}")
            collected = loop.collector.collect(iteration, clock)
            loop.collector.sample_ahead(iteration + 1, clock)
            experience, scores, seen = appraise(recipe, loop.models, collected, loop.beta, clock)
            reason = broken(recipe, seen)
            if not reason:
                seen |= clock.time("update", improve, recipe, loop.models, iteration, experience, loop.mix)
                reason = broken(recipe, seen)
            loop.record(iteration, collected, scores, seen, clock, whole=not reason)
            if reason:
                raise TrainingError(f"iteration {iteration}: {reason}")
        loop.publish()
