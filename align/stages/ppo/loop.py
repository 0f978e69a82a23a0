"""What a PPO run holds open and remembers between iterations: models, prompts, judge, log, checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.config import to_plain
from align.errors import RecipeError

if TYPE_CHECKING:
    from align.engine.clock import Clock
    from align.rollout.judge import Scores
    from align.stages.ppo.collect import Collected
    from align.stages.ppo.recipe import Recipe

ROLLOUTS = "rollouts"  # folder of what was sampled, in the work folder and in the artifact
POLICIES = "policies"  # likewise of the policies on the way


class Loop:
    """A run's state. Opened as a context, it goes on from the newest checkpoint."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        """Load everything, and refuse prompts that do not fit the recipe, before anything is sampled."""
        from align.artifacts import work_dir
        from align.data.tokenizer import Tokenizer
        from align.stages.ppo.collect import Collector, read_questions
        from align.stages.ppo.held_out import HeldOut
        from align.stages.ppo.learn import language_mix
        from align.stages.ppo.models import Models

        self.recipe, self.out, self.work = recipe, out, work_dir(out)
        self.models = Models(recipe)
        self.tokenizer = Tokenizer(Path(recipe.policy) / "tokenizer.model")
        room = self.models.config.max_seq_len - recipe.sampling.max_new_tokens
        questions = read_questions(Path(recipe.prompts), self.tokenizer, room, recipe)
        if recipe.ppo.prompts > len(questions.prompts):
            found = len(questions.prompts)
            raise RecipeError(f"ppo.prompts: {recipe.ppo.prompts} an iteration, and {recipe.prompts} has {found}")
        longest = questions.longest
        self.held_out = None
        if recipe.held_out:
            held = read_questions(Path(recipe.held_out.prompts), self.tokenizer, room, recipe)
            held = type(held)(held.prompts[: recipe.held_out.take], held.encoded[: recipe.held_out.take])
            longest = max(longest, held.longest)
            self.held_out = HeldOut(recipe, self.models, held, self.work)
        self.mix = language_mix(recipe.ptx, self.tokenizer, recipe.seed) if recipe.ptx else None
        self.collector = Collector(recipe, self.models, questions, self.tokenizer.eos, longest)
        self.beta = recipe.ppo.beta
        self.seen: dict[str, Any] = {}  # the last iteration's measurements
        self.stopped: str | None = None
        self.first: dict[str, float] = {}  # the judgement of the policy that it starts from, for the first row
        self._open = ExitStack()

    def __enter__(self) -> Loop:
        from align.engine import checkpoint
        from align.engine.metrics import Metrics

        self.start, state = checkpoint.load(self.work / "checkpoints", self.models.engines) or (0, None)
        if state:
            self.beta, self.seen, self.stopped = state["beta"], state["seen"], state["stopped"]
            self.collector.ahead = state["ahead"]
            if self.held_out:
                self.held_out.restore(state["held_out"])
        self._open.enter_context(self.collector)
        iterations = self.recipe.ppo.iterations
        self.log = self._open.enter_context(Metrics(self.work, iterations, self.out.name, self.start))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def left(self) -> Iterator[int]:
        """The iterations to do, until the last or until the held-out judge says that it is enough."""
        from align.engine.clock import Clock

        if self.held_out and self.start == 0:
            first = self.held_out.judge(0, self.collector, Clock("before training"))
            self.first = {name.replace("held_out/", "held_out_start/"): value for name, value in first.items()}
        for iteration in range(self.start, self.recipe.ppo.iterations):
            if self.stopped:
                return
            yield iteration

    def record(
        self,
        iteration: int,
        collected: Collected,
        scores: Scores,
        seen: dict[str, float],
        clock: Clock,
        whole: bool,
    ) -> None:
        """Judge, log, adapt beta, save where it is time to.

        Args:
            iteration: from 0.
            collected: its answers.
            scores: of theirs.
            seen: what was measured.
            clock: where its time went.
            whole: the weights were updated; otherwise only the log is written.
        """
        from align.losses.kl import adapted_beta

        ppo, done = self.recipe.ppo, iteration + 1
        if ppo.adaptive_kl:
            seen |= {"kl/beta": self.beta}
            kl, adaptive = seen["kl/answer"], ppo.adaptive_kl
            self.beta = adapted_beta(self.beta, kl, adaptive.target, adaptive.horizon, len(collected.answers))
        if whole and self.held_out:
            seen |= self.held_out.judge(done, self.collector, clock)
            self.stopped = self.held_out.verdict
        seen |= self.first
        self.first = {}
        self.log.log(iteration, seen)
        self.seen = seen
        if whole and self.recipe.keep_rollouts and iteration % self.recipe.keep_rollouts == 0:
            clock.time("save", self._keep_rollouts, iteration, collected, scores)
        if whole and self.recipe.keep_policies and done % self.recipe.keep_policies == 0:
            clock.time("save", self.models.save_policy, self.work / POLICIES / str(done))
        if whole and (done % self.recipe.save_every == 0 or self.stopped):
            self._save(done, clock)
        self._tell_time(iteration, collected, clock)

    def publish(self) -> None:
        """The artifact: the policy that the recipe names, and the other one, if there is one, in a folder within."""
        from align.engine.export import export

        recipe, models = self.recipe, self.models
        metrics = dict(self.seen)
        parents = [Path(folder) for folder in (recipe.policy, recipe.helpful, recipe.safety)]
        inputs, into = [Path(recipe.prompts)], ""
        beside = {name: self.work / name for name in (ROLLOUTS, POLICIES) if (self.work / name).is_dir()}
        if recipe.ptx:
            inputs += [Path(path) for path in [*(source.path for source in recipe.ptx.data), *recipe.ptx.text]]
        if self.held_out and recipe.held_out:
            inputs.append(Path(recipe.held_out.prompts))
            metrics |= {"held_out": self.held_out.state(), "published": recipe.held_out.publish}
            into, place = ("last", "") if recipe.held_out.publish == "best" else ("", "best")
            beside[place] = self.held_out.best
        if self.stopped:
            metrics["stopped"] = self.stopped
        export(
            models.policy, "policy", models.config, self.tokenizer.path, self.out,
            stage="ppo", recipe=to_plain(recipe), seed=recipe.seed, parents=parents, inputs=inputs, metrics=metrics,
            lora=recipe.lora, into=into, beside=beside,
        )  # fmt: skip
        if self.held_out:
            for folder in self.work.glob("best-*"):
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.work / POLICIES, ignore_errors=True)

    def _save(self, done: int, clock: Clock) -> None:
        from align.engine import checkpoint

        state = {
            "beta": self.beta,
            "seen": self.seen,
            "stopped": self.stopped,
            "ahead": self.collector.settle(clock),
            "held_out": self.held_out.state() if self.held_out else None,
        }
        self.log.sync()
        clock.time("save", checkpoint.save, self.work / "checkpoints", done, self.models.engines, state)
        if self.held_out:
            self.held_out.forget_older()

    def _keep_rollouts(self, iteration: int, collected: Collected, scores: Scores) -> None:
        """A file an iteration, so that a resumed run writes the same bytes in the same place."""
        from align.artifacts import write_jsonl
        from align.engine import dist
        from align.rollout.collect import about

        if not dist.is_main():
            return
        folder = self.work / ROLLOUTS
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for place, number in enumerate(collected.numbers):
            answer = collected.answers[place]
            row = {
                "answer": self.tokenizer.decode(answer).strip(),
                "policy": f"{self.out.name} after {iteration} iterations",
                "sample": place % self.recipe.ppo.samples,
                "temperature": self.recipe.sampling.temperature,
                "tokens": list(answer),
                "logprob": float(collected.logprobs[place].sum()),
                "finish": "stop" if collected.finished[place] else "length",
                "scores": {name: float(found[place]) for name, found in scores._asdict().items()},
            }
            rows.append(about(self.collector.questions.prompts[number], row))
        write_jsonl(folder / f"iteration-{iteration:08d}.jsonl", rows)

    def _tell_time(self, iteration: int, collected: Collected, clock: Clock) -> None:
        from align.engine.clock import memory

        total, tokens = sum(clock.seconds.values()), sum(map(len, collected.answers))
        self.log.timing(
            iteration,
            **clock.seconds,
            **{f"share/{phase}": seconds / total for phase, seconds in clock.seconds.items()},
            seconds=total,
            answers_per_second=len(collected.answers) / total,
            tokens_per_second=tokens / total,
            **{f"memory/{place}": peak for place, peak in memory().items()},
        )
