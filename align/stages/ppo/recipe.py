"""PPO's recipe: every detail on which it depends is a named choice, with the paper's value or `ours`."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from align.config import config
from align.data.batches import BatchConfig
from align.data.fit import Overlong
from align.engine.launch import LaunchConfig
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig
from align.model.config import LoraConfig
from align.rollout.backend import SamplingConfig
from align.rollout.pool import PoolConfig
from align.stages.sft import DialogSource

Positive = Annotated[float, pydantic.Field(gt=0)]
NonNegative = Annotated[float, pydantic.Field(ge=0)]
Unit = Annotated[float, pydantic.Field(ge=0, le=1)]
Count = Annotated[int, pydantic.Field(ge=1)]
Number = Annotated[int, pydantic.Field(ge=0)]


@config
class AdaptiveKL:
    """beta follows the KL (Ziegler et al. 2019, arXiv 1909.08593, section 2.2); see ``losses.adapted_beta``."""

    target: Positive = 6.0  # nats an answer; lm-human-preferences
    horizon: Positive = 10_000.0  # answers; lm-human-preferences


@config
class PtxConfig:
    """PPO-ptx: cross-entropy beside the policy loss (InstructGPT, arXiv 2203.02155, equation 2)."""

    weight: Positive = 27.8  # InstructGPT; ours: on the mean over a gradient step's tokens
    data: list[DialogSource] = pydantic.Field(default_factory=list)  # dialogues: their answers count
    text: list[str] = pydantic.Field(default_factory=list)  # plain text, a document a line: every token counts
    rows: Count  # packed rows of a gradient step, over all processes
    micro_rows: Count  # of a forward pass
    length: Annotated[int, pydantic.Field(ge=8)]  # tokens a row at most
    overlong: Overlong = "error"  # a dialogue longer than that

    def __post_init__(self) -> None:
        if not self.data and not self.text:
            raise ValueError("ptx: give data (dialogues), text, or both")

    @property
    def batch(self) -> BatchConfig:
        """The sizes as packing takes them."""
        return BatchConfig(rows=self.rows, micro_rows=self.micro_rows, length=self.length)


@config
class PPOConfig:
    """PPO's own numbers. Those the paper states have no default; the others say where they come from."""

    iterations: Count
    prompts: Count  # an iteration
    samples: Count = 1  # answers to each of them
    mini_batch: Count  # answers to a gradient step
    beta: NonNegative  # weight of the KL penalty; where it starts, if it is adaptive
    adaptive_kl: AdaptiveKL | None = None  # ours: off
    clip: Positive
    gamma: Unit = 1.0  # ours, as public trainers: not stated in the paper
    lam: Unit = 0.95  # ours
    epochs: Count = 1  # one gradient step a mini-batch
    # ours: what is shuffled into mini-batches: answers each by itself, or prompts, whose answers then meet in one
    # gradient step and are computed behind their prompt once
    shuffle: Literal["answers", "prompts"] = "answers"
    value_clip: Positive = 0.2  # ours
    value_weight: Positive = 0.1  # ours
    critic_warmup: Number = 0  # ours: off; first iterations, in which the critic alone learns
    entropy_weight: NonNegative = 0.0  # ours: off
    score_scale: Literal["whiten", "whiten_by_kind", "whiten_by_prompt", "unit_variance", "none"] = "whiten"
    score_clip: Positive | None = None  # ours: off
    no_eos_score: float | None = -1.0  # ours, as lm-human-preferences: instead of the scaled score
    # bounds beyond which the run stops and says why; all ours
    max_kl: Positive = 100.0  # nats an answer
    max_negative_kl: Positive = 5.0  # nats an answer below 0, where no KL is: log-probs of another distribution
    max_gap: Positive = 0.5  # nats a token between rollout and trainer
    min_length: NonNegative = 1.5  # tokens an answer, on average: below it answers have collapsed

    def __post_init__(self) -> None:
        if self.score_scale == "whiten_by_prompt" and self.samples < 2:
            raise ValueError("score_scale: whiten_by_prompt compares a prompt's answers: samples must be 2 or more")
        if self.critic_warmup >= self.iterations:
            raise ValueError(f"critic_warmup: {self.critic_warmup} of {self.iterations} iterations leave none")

    @property
    def batch(self) -> int:
        """Answers of an iteration."""
        return self.prompts * self.samples

    @property
    def updates(self) -> int:
        """Gradient steps of an iteration."""
        return self.epochs * -(-self.batch // self.mini_batch)


@config
class HeldOutConfig:
    """Prompts that are never trained on: what the policy answers them is judged by the reward models."""

    prompts: str
    take: Count | None = None  # the first so many; all where null
    samples: Count = 1  # answers to each, drawn by the same numbers at every judgement
    every: Count  # iterations; the policy before the first one is judged too
    patience: Count | None = None  # judgements without a better one, after which the run ends; null: it never does
    publish: Literal["best", "last"] = "best"  # which policy the artifact is; the other lies in it under its name


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
    ptx: PtxConfig | None = None  # ours: off
    held_out: HeldOutConfig | None = None
    overlong: Overlong = "error"  # a prompt that leaves no room for an answer
    sampling: SamplingConfig
    slots: Count = 128  # rollouts under way at once, where the trainer samples
    pool: PoolConfig | None = None  # who samples; the trainer's own processes where null
    ahead: bool = False  # ours: the pool samples an iteration while the one before trains: off-policy by one version
    micro_tokens: Count  # tokens in a forward pass, padding included
    lora: LoraConfig | None = None  # the policy trains by adapters, and its base is the reference
    critic_lora: LoraConfig | None = None  # likewise the critic, and its base is the reward model that it starts from
    optim: OptimConfig
    critic_optim: OptimConfig
    zero: ZeroConfig
    launch: LaunchConfig = LaunchConfig()
    save_every: Count = 10
    keep_rollouts: Number = 0  # every so many iterations what was sampled is kept in the artifact; 0: never
    keep_policies: Number = 0  # every so many iterations the policy is kept in it too: policies/ITERATIONS; 0: never

    def __post_init__(self) -> None:
        if self.sampling.top_p != 1.0 or self.sampling.top_k != 0:
            raise ValueError("sampling: top_p must be 1 and top_k 0 in PPO: filtered samples have other log-probs")
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature: must be above 0 in PPO: the likeliest answer alone teaches nothing")
        if self.ppo.min_length > self.sampling.max_new_tokens:
            raise ValueError("ppo.min_length: more than sampling.max_new_tokens: every run would stop")
        if self.ahead and (self.pool is None or self.pool.kind != "ray"):
            raise ValueError("ahead: needs pool.kind ray: actors sample while the trainer trains")
        if self.launch.kind == "ray" and self.pool and self.pool.address not in (None, self.launch.address):
            raise ValueError("pool.address: with launch.kind ray the pool is in the launch's own cluster: leave it out")
        ranks, last = self.launch.processes, self.ppo.batch % self.ppo.mini_batch or self.ppo.mini_batch
        if self.ppo.batch % ranks:
            raise ValueError(f"ppo.prompts: {self.ppo.batch} answers do not divide among {ranks} processes")
        if min(last, self.ppo.batch) < ranks:
            raise ValueError(f"ppo.mini_batch: one of {last} answers does not reach {ranks} processes")
        if self.ptx and self.ptx.rows < ranks:
            raise ValueError(f"ptx.rows: {self.ptx.rows} do not reach {ranks} processes")
