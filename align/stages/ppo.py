"""Prompts -> a policy that maximises the reward within a KL penalty of where it started (paper section 3.2.3)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

from align.config import config, to_plain
from align.data.fit import Overlong
from align.engine.launch import LaunchConfig
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig
from align.errors import RecipeError, TrainingError
from align.rollout.backend import SamplingConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from align.records import PPOBatch
    from align.rollout.experience import Experience

Positive = Annotated[float, pydantic.Field(gt=0)]
NonNegative = Annotated[float, pydantic.Field(ge=0)]
Unit = Annotated[float, pydantic.Field(ge=0, le=1)]
Count = Annotated[int, pydantic.Field(ge=1)]


@config
class PPOConfig:
    """PPO's own numbers. Those the paper states have no default; the others say where they come from."""

    iterations: Count
    prompts: Count  # an iteration
    samples: Count = 1  # answers to each of them
    mini_batch: Count  # answers to a gradient step
    beta: NonNegative  # weight of the KL penalty
    clip: Positive
    gamma: Unit = 1.0  # ours, as public trainers: not stated in the paper
    lam: Unit = 0.95  # ours
    epochs: Count = 1  # one gradient step a mini-batch
    value_clip: Positive = 0.2  # ours
    value_weight: Positive = 0.1  # ours
    entropy_weight: NonNegative = 0.0  # ours: off
    score_scale: Literal["whiten", "whiten_by_kind", "whiten_by_prompt", "unit_variance", "none"] = "whiten"
    score_clip: Positive | None = None  # ours: off
    no_eos_score: float | None = -1.0  # ours, as lm-human-preferences: instead of the scaled score
    max_kl: Positive = 100.0  # nats an answer; beyond it the run stops
    max_gap: Positive = 0.5  # nats a token between rollout and trainer; beyond it the run stops

    def __post_init__(self) -> None:
        if self.score_scale == "whiten_by_prompt" and self.samples < 2:
            raise ValueError("score_scale: whiten_by_prompt compares a prompt's answers: samples must be 2 or more")

    @property
    def batch(self) -> int:
        """Answers of an iteration."""
        return self.prompts * self.samples


@config
class Recipe:
    """Proximal policy optimisation against two reward models."""

    stage: Literal["ppo"]
    seed: int = 0
    policy: str  # where it starts, and the frozen reference
    helpful: str
    safety: str
    critic: Literal["helpful", "safety", "policy"] = (
        "helpful"  # ours: whose body the critic starts from; its head from 0
    )
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)]
    prompts: str
    ppo: PPOConfig
    overlong: Overlong = "error"  # a prompt that leaves no room for an answer
    sampling: SamplingConfig
    slots: Count = 128  # rollouts under way at once
    micro_tokens: Count  # tokens in a forward pass, padding included
    optim: OptimConfig
    critic_optim: OptimConfig
    zero: ZeroConfig
    launch: LaunchConfig = LaunchConfig()
    save_every: Count = 10

    def __post_init__(self) -> None:
        if self.sampling.top_p != 1.0 or self.sampling.top_k != 0:
            raise ValueError("sampling: top_p must be 1 and top_k 0 in PPO: filtered samples have other log-probs")


def run(recipe: Recipe, out: Path) -> None:
    """Collect, appraise, improve, record; publish the policy at ``out``."""
    from align.artifacts import work_dir
    from align.engine import checkpoint
    from align.engine.clock import Clock
    from align.engine.export import export
    from align.engine.metrics import Metrics

    loop = Loop(recipe)
    work = work_dir(out)
    start, seen = checkpoint.load(work / "checkpoints", loop.engines) or (0, {})
    with Metrics(work, total=recipe.ppo.iterations, label=out.name, start=start) as log:
        for iteration in range(start, recipe.ppo.iterations):
            clock = Clock()
            collected = clock.time("rollout", loop.collect, iteration)
            experience, seen = clock.time("score", loop.appraise, collected)
            seen |= clock.time("update", loop.improve, iteration, experience)
            log.log(iteration, seen)
            loop.guard(iteration, seen)
            if (iteration + 1) % recipe.save_every == 0:
                log.sync()
                clock.time("save", checkpoint.save, work / "checkpoints", iteration + 1, loop.engines, seen)
            log.timing(iteration, **clock.seconds)
    export(
        loop.policy, "policy", loop.config, loop.tokenizer.path, out,
        stage="ppo", recipe=to_plain(recipe), seed=recipe.seed,
        parents=[Path(p) for p in (recipe.policy, recipe.helpful, recipe.safety)], inputs=[Path(recipe.prompts)],
        metrics=seen,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Collected:
    """One iteration's prompts and answers, over all ranks."""

    prompts: list[tuple[int, ...]]
    answers: list[tuple[int, ...]]
    logprobs: Tensor  # [R, A] nats
    finished: Tensor  # [R] bool
    is_safety: list[bool]


class Loop:
    """PPO's models, held open: policy and critic in training, reference and reward models frozen."""

    def __init__(self, recipe: Recipe) -> None:
        from align.data.prompts import encode_prompts, fit_prompts
        from align.data.schema import read_prompts
        from align.data.tokenizer import Tokenizer
        from align.engine import dist
        from align.engine.zero import wrap
        from align.model.config import read_config
        from align.model.heads import scorer_from_policy
        from align.model.weights import load_policy, load_scorer
        from align.rollout.judge import RewardModels
        from align.rollout.local import LocalEngine

        dist.setup()
        self.recipe, ppo = recipe, recipe.ppo
        start = Path(recipe.policy)
        self.config = read_config(start)
        self.tokenizer = Tokenizer(start / "tokenizer.model")
        room = self.config.max_seq_len - recipe.sampling.max_new_tokens
        self.prompts, _ = fit_prompts(self.tokenizer, list(read_prompts(recipe.prompts)), room, recipe.overlong)
        self.encoded = encode_prompts(self.tokenizer, self.prompts)
        if ppo.prompts > len(self.prompts):
            raise RecipeError(f"ppo.prompts: {ppo.prompts} an iteration, and {recipe.prompts} has {len(self.prompts)}")
        if ppo.batch % dist.world_size():
            raise RecipeError(f"ppo.prompts: {ppo.batch} answers do not divide among {dist.world_size()} processes")

        bodies = {"helpful": recipe.helpful, "safety": recipe.safety}
        if recipe.critic == "policy":
            critic = scorer_from_policy(load_policy(start), recipe.seed)
        else:
            critic = load_scorer(Path(bodies[recipe.critic]))
        critic.score.weight.data.zero_()
        steps = ppo.iterations * ppo.epochs * -(-ppo.batch // ppo.mini_batch)
        self.policy = wrap(load_policy(start), recipe.optim, recipe.zero, steps)
        self.critic = wrap(critic, recipe.critic_optim, recipe.zero, steps)
        self.engines = {"policy": self.policy, "critic": self.critic}
        self.reference = load_policy(start, dtype=recipe.zero.dtype).eval().requires_grad_(False)
        self.reward = RewardModels(Path(recipe.helpful), Path(recipe.safety), recipe.threshold, recipe.zero.dtype)
        self.actor = load_policy(start, dtype=recipe.zero.dtype)
        longest = max(len(tokens) for tokens in self.encoded) + recipe.sampling.max_new_tokens
        self.sampler = LocalEngine(self.actor, eos=self.tokenizer.eos, slots=recipe.slots, max_len=longest)

    def collect(self, iteration: int) -> Collected:
        """Hand the policy's weights to the sampler, answer this iteration's prompts, share the answers over ranks."""
        from torch import tensor

        from align.data.stream import order
        from align.engine import dist
        from align.engine.zero_state import copy_weights
        from align.records import Request
        from align.rollout.experience import table

        copy_weights(self.policy, self.actor)
        recipe = self.recipe
        asked = order(len(self.prompts), iteration, recipe.ppo.prompts, recipe.seed)
        drawn = [(int(prompt), sample) for prompt in asked for sample in range(recipe.ppo.samples)]
        share = drawn[dist.rank() :: dist.world_size()]
        requests = [Request(i, tuple(self.encoded[i]), k, seed=recipe.seed, step=iteration) for i, k in share]
        mine = self.sampler.generate(requests, recipe.sampling)
        told = dist.all_gather_json([[r.prompt, r.tokens, r.logprobs, r.finish == "stop"] for r in mine])
        # back to the order of `drawn`, so that the number of ranks changes nothing that follows
        rollouts = [told[place % len(told)][place // len(told)] for place in range(len(drawn))]
        return Collected(
            prompts=[tuple(self.encoded[prompt]) for prompt, _, _, _ in rollouts],
            answers=[tuple(tokens) for _, tokens, _, _ in rollouts],
            logprobs=table([logprobs for _, _, logprobs, _ in rollouts]),
            finished=tensor([finished for _, _, _, finished in rollouts]),
            is_safety=[self.prompts[prompt].kind == "safety" for prompt, _, _, _ in rollouts],
        )

    def appraise(self, collected: Collected) -> tuple[Experience, dict[str, float]]:
        """Reward, reference and critic on every answer."""
        import torch

        from align.losses import kl_k1, kl_k3
        from align.rollout.experience import build, logprob_reader, over_answers, scaled_scores, value_reader

        recipe, ppo = self.recipe, self.recipe.ppo
        prompts, answers = collected.prompts, collected.answers
        scores = self.reward.score(prompts, answers, collected.is_safety)
        reference = logprob_reader(self.reference, recipe.sampling.temperature)
        ref_logprobs = over_answers(reference, prompts, answers, recipe.micro_tokens)
        values = over_answers(value_reader(self.critic), prompts, answers, recipe.micro_tokens)
        scaled = scaled_scores(
            scores.combined, collected.finished, torch.tensor(collected.is_safety, dtype=torch.bool),
            how=ppo.score_scale, clip=ppo.score_clip, no_eos=ppo.no_eos_score, samples=ppo.samples,
        )  # fmt: skip
        experience = build(
            prompts, answers, logprobs=collected.logprobs, ref_logprobs=ref_logprobs, values=values, scores=scaled,
            beta=ppo.beta, gamma=ppo.gamma, lam=ppo.lam,
        )  # fmt: skip
        mask, count = experience.mask, experience.mask.sum()
        variance = experience.returns[mask].var()
        seen = {
            "reward/combined": scores.combined.mean(),
            "reward/helpful": scores.helpful.mean(),
            "reward/safety": scores.safety.mean(),
            "kl/answer": kl_k1(collected.logprobs, ref_logprobs).sum() / len(answers),
            "kl/k1": kl_k1(collected.logprobs, ref_logprobs).sum() / count,
            "kl/k3": (kl_k3(collected.logprobs, ref_logprobs) * mask).sum() / count,
            "answer/tokens": count / len(answers),
            "answer/no_eos": (~collected.finished).float().mean(),
            "value/explained": 1 - (experience.returns - values)[mask].var() / variance.clamp(min=1e-8),
        }
        return experience, {name: float(value) for name, value in seen.items()}

    def improve(self, iteration: int, experience: Experience) -> dict[str, float]:
        """One gradient step of policy and critic a mini-batch."""
        from align.data.stream import order
        from align.engine import ppo as losses
        from align.engine.step import update

        ppo, means = self.recipe.ppo, defaultdict(list)
        policy_terms = partial(
            losses.policy_terms,
            clip=ppo.clip, temperature=self.recipe.sampling.temperature, entropy=ppo.entropy_weight,
        )  # fmt: skip
        value_terms = partial(losses.value_terms, clip=ppo.value_clip, weight=ppo.value_weight)
        answers = len(experience.answers)
        updates = ppo.epochs * -(-answers // ppo.mini_batch)
        for number in range(updates):
            rows = order(answers, number, ppo.mini_batch, self.recipe.seed + iteration)
            micros = self._micros(experience, [int(r) for r in rows])
            acted = update(self.policy, micros, losses.policy_counts, policy_terms)
            judged = update(self.critic, micros, losses.value_counts, value_terms)
            if number == 0:  # the weights still are those that answered
                means["gap"].append(acted.losses["gap"])
            for name, value in (acted.losses | judged.losses).items():
                if name != "gap":
                    means[f"update/{name}"].append(value)
            means["update/grad_norm"].append(acted.grad_norm)
        return {name: sum(values) / len(values) for name, values in means.items()}

    def guard(self, iteration: int, seen: dict[str, float]) -> None:
        """Stop with a reason rather than train on."""
        ppo = self.recipe.ppo
        if seen["gap"] > ppo.max_gap:
            raise TrainingError(
                f"iteration {iteration}: rollout and trainer log-probs differ by {seen['gap']:.3g} nats a token "
                f"(bound {ppo.max_gap}): the sampler does not run the trainer's weights, temperature or tokens"
            )
        if abs(seen["kl/answer"]) > ppo.max_kl:
            raise TrainingError(
                f"iteration {iteration}: KL to the reference is {seen['kl/answer']:.3g} nats an answer, "
                f"the bound is {ppo.max_kl}; "
                "raise ppo.beta or lower optim.lr; a large negative value means log-probs of another distribution"
            )

    def _micros(self, experience: Experience, rows: Sequence[int]) -> list[PPOBatch]:
        """This rank's share of a mini-batch as forward passes of similar lengths."""
        from align.engine import dist
        from align.rollout.experience import groups, select

        mine = sorted(rows)[dist.rank() :: dist.world_size()]
        parts = groups(experience.prompts, experience.answers, self.recipe.micro_tokens, mine)
        return [select(experience, packs) for packs in parts]
