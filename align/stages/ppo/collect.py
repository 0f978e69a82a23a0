"""Prompts -> answers by the policy as it is: in the trainer's own processes, or by a pool of actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from align.records import Request

if TYPE_CHECKING:
    from torch import Tensor

    from align.data.tokenizer import Tokenizer
    from align.engine.clock import Clock
    from align.records import Prompt, Rollout
    from align.rollout.pool import Pool
    from align.stages.ppo.models import Models
    from align.stages.ppo.recipe import Recipe

Told: TypeAlias = list[Any]  # prompt, tokens, log-probs, whether it ended: what ranks and checkpoints tell of an answer


@dataclass(frozen=True, slots=True)
class Questions:
    """Prompts with their tokens, which leave room for an answer."""

    prompts: list[Prompt]
    encoded: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(len(tokens) for tokens in self.encoded)


@dataclass(frozen=True, slots=True)
class Collected:
    """One iteration's prompts and answers, over all ranks."""

    numbers: list[int]  # of the prompts
    prompts: list[tuple[int, ...]]
    answers: list[tuple[int, ...]]
    logprobs: Tensor  # [R, A] nats
    finished: Tensor  # [R] bool
    is_safety: list[bool]


def read_questions(path: Path, tokenizer: Tokenizer, room: int, recipe: Recipe) -> Questions:
    """The prompts of a file.

    Args:
        path: JSONL.
        tokenizer: of the policy.
        room: tokens of a prompt at most.
        recipe: says what becomes of a longer one.

    Raises:
        DataError: a prompt that cannot be used, or none at all.
    """
    from align.data.prompts import encode_prompts, fit_prompts
    from align.data.schema import read_prompts
    from align.errors import DataError

    prompts, _ = fit_prompts(tokenizer, list(read_prompts(str(path))), room, recipe.overlong)
    if not prompts:
        raise DataError(f"{path}: no prompt leaves room for an answer of sampling.max_new_tokens")
    return Questions(prompts, encode_prompts(tokenizer, prompts))


def gathered_answers(told: Sequence[Told], questions: Questions) -> Collected:
    """Answers as ranks and checkpoints tell of them, as tables."""
    import torch

    from align.rollout.experience import table

    return Collected(
        numbers=[number for number, _, _, _ in told],
        prompts=[tuple(questions.encoded[number]) for number, _, _, _ in told],
        answers=[tuple(tokens) for _, tokens, _, _ in told],
        logprobs=table([logprobs for _, _, logprobs, _ in told]),
        finished=torch.tensor([finished for _, _, _, finished in told]),
        is_safety=[questions.prompts[number].kind == "safety" for number, _, _, _ in told],
    )


class Collector:
    """Who samples, held open for a run; used as a context."""

    def __init__(self, recipe: Recipe, models: Models, questions: Questions, eos: int, longest: int) -> None:
        """Nothing is started yet.

        Args:
            recipe: who samples, how many and how.
            models: whose policy answers.
            questions: to train on.
            eos: token that ends an answer.
            longest: tokens of the longest prompt that will be answered.
        """
        self.recipe, self.models, self.questions, self.eos = recipe, models, questions, eos
        self.max_len = longest + recipe.sampling.max_new_tokens
        self.ahead: list[Told] | None = None  # the next iteration's answers, where they are there already
        self._coming = 0  # of them, under way
        self._future: Future[list[Rollout]] | None = None  # on the rank that asked
        self._open = ExitStack()
        self._pool: Pool | None = None

    def __enter__(self) -> Collector:
        from align.engine import dist
        from align.rollout.pool import open_pool

        if self.recipe.pool and dist.is_main():
            self._pool = self._open.enter_context(open_pool(Path(self.recipe.policy), self.recipe.pool))
            self._thread = self._open.enter_context(ThreadPoolExecutor(1, "ahead"))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def collect(self, iteration: int, clock: Clock) -> Collected:
        """This iteration's answers: those sampled ahead, or the policy's as it is now."""
        told = self.settle(clock)
        if told is None:
            told = self.answer(self._asked(iteration), iteration, self.questions, clock)
        self.ahead = None
        return gathered_answers(told, self.questions)

    def sample_ahead(self, iteration: int, clock: Clock) -> None:
        """Where the recipe says so, let actors begin with an iteration's answers, by the policy as it is now."""
        if not self.recipe.ahead or iteration >= self.recipe.ppo.iterations:
            return
        clock.time("sync", self._hand_over, f"before iteration {iteration}")
        requests = self._requests(self._asked(iteration), iteration, self.questions)
        if self._pool:
            self._future = self._thread.submit(self._pool.generate, requests, self.recipe.sampling)
        self._coming = len(requests)

    def settle(self, clock: Clock) -> list[Told] | None:
        """Wait for what is sampled ahead, so that it can be saved; None where nothing is. Every rank calls it."""
        if self._coming:
            mine = clock.time("rollout", self._future.result) if self._future else []
            self.ahead, self._coming = _shared(mine, self._coming), 0
        return self.ahead

    def answer(self, asked: Sequence[tuple[int, int]], step: int, questions: Questions, clock: Clock) -> list[Told]:
        """Answers by the policy as it is now, on every rank.

        Args:
            asked: number of the prompt and of the sample.
            step: addresses the randomness, with seed, prompt and sample.
            questions: the prompts.
            clock: takes the times of ``sync`` and ``rollout``.
        """
        from align.engine import dist

        self.settle(clock)
        if self.recipe.pool:
            clock.time("sync", self._hand_over, f"step {step}")
            requests = self._requests(asked, step, questions)
            mine = clock.time("rollout", self._pool.generate, requests, self.recipe.sampling) if self._pool else []
        else:
            sampler = clock.time("sync", self._sampler)
            requests = self._requests(asked, step, questions)[dist.rank() :: dist.world_size()]
            mine = clock.time("rollout", sampler.generate, requests, self.recipe.sampling)
        return _shared(mine, len(asked))

    def _asked(self, iteration: int) -> list[tuple[int, int]]:
        from align.data.stream import order

        recipe = self.recipe
        prompts = order(len(self.questions.prompts), iteration, recipe.ppo.prompts, recipe.seed)
        return [(int(prompt), sample) for prompt in prompts for sample in range(recipe.ppo.samples)]

    def _requests(self, asked: Sequence[tuple[int, int]], step: int, questions: Questions) -> list[Request]:
        seed = self.recipe.seed
        return [Request(i, tuple(questions.encoded[i]), k, seed=seed, step=step) for i, k in asked]

    def _sampler(self) -> Any:
        """The sampling engine around a copy of the weights, which is let go when the answers are there."""
        from align.engine.zero_state import copy_weights
        from align.model.llama import Llama
        from align.model.strict import allocate
        from align.rollout.local import LocalEngine
        from align.rollout.sync import pour

        models, recipe = self.models, self.recipe
        actor = allocate(Llama, models.config, models.dtype, str(models.device))
        if recipe.lora:
            pour(models.weights(), actor)
        else:
            copy_weights(models.policy, actor)
        return LocalEngine(actor, eos=self.eos, slots=recipe.slots, max_len=self.max_len)

    def _hand_over(self, version: str) -> None:
        """The weights to the pool's actors. Gathering is a collective: every rank takes part."""
        from align.rollout.sync import hand_over

        weights: Iterator[tuple[str, Tensor]] = self.models.weights()
        if self._pool:
            hand_over(weights, self._pool, version)
        else:
            for _ in weights:
                pass


def _shared(mine: Sequence[Rollout], asked: int) -> list[Told]:
    """All ranks' answers in the order they were asked for, so that the number of ranks changes nothing that follows."""
    from align.engine import dist

    told = dist.all_gather_json([[r.prompt, r.tokens, r.logprobs, r.finish == "stop"] for r in mine])
    if len(told[0]) == asked:  # one rank, or one that asked a pool for all of them
        return list(told[0])
    return [told[place % len(told)][place // len(told)] for place in range(asked)]
