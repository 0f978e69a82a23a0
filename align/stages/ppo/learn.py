"""An iteration's answers -> what they are worth -> new weights; nothing is forwarded twice that can be kept.

Every answer goes once through each reward model, the reference and the critic, and then once an epoch through what is
trained; a prompt is computed once for its answers in one forward pass. The log-probabilities under the policy that
answered are those it was sampled with. The language head runs on the positions that predict answers' tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from align.records import Batch, PPOBatch

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.engine.clock import Clock
    from align.engine.step import Term
    from align.engine.zero import Engine
    from align.rollout.experience import Experience
    from align.rollout.judge import Scores
    from align.stages.ppo.collect import Collected
    from align.stages.ppo.models import Models
    from align.stages.ppo.recipe import PtxConfig, Recipe

Mix = Callable[[int], list[Batch]]  # the micro-batches that language modelling adds to a gradient step


def appraise(
    recipe: Recipe, models: Models, collected: Collected, beta: float, clock: Clock
) -> tuple[Experience, Scores, dict[str, float]]:
    """Reward, reference and critic on every answer.

    Args:
        recipe: how scores are scaled, gamma and lambda.
        models: who reads.
        collected: R answers.
        beta: weight of the KL penalty.
        clock: takes the times of ``score``, ``reference`` and ``value``.

    Returns:
        the experience, the scores it was made from, and what is to be logged of them.
    """
    import torch

    from align.losses import kl_k1, kl_k3
    from align.rollout.experience import build, logprob_reader, scaled_scores, value_reader

    ppo, prompts, answers = recipe.ppo, collected.prompts, collected.answers
    scores = clock.time("score", models.score, prompts, answers, collected.is_safety)
    reference = logprob_reader(models.reference, recipe.sampling.temperature)
    ref_logprobs = clock.time("reference", models.read, reference, prompts, answers)
    values = clock.time("value", models.read, value_reader(models.critic), prompts, answers)
    scaled = scaled_scores(
        scores.combined, collected.finished, torch.tensor(collected.is_safety, dtype=torch.bool),
        how=ppo.score_scale, clip=ppo.score_clip, no_eos=ppo.no_eos_score, samples=ppo.samples,
    )  # fmt: skip
    experience = build(
        prompts, answers, logprobs=collected.logprobs, ref_logprobs=ref_logprobs, values=values, scores=scaled,
        beta=beta, gamma=ppo.gamma, lam=ppo.lam,
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
    return experience, scores, {name: float(value) for name, value in seen.items()}


def improve(
    recipe: Recipe, models: Models, iteration: int, experience: Experience, mix: Mix | None = None
) -> dict[str, float]:
    """One gradient step of policy and critic a mini-batch; while the critic warms up, of the critic alone.

    Args:
        recipe: the losses' numbers and the sizes.
        models: policy and critic are changed.
        iteration: addresses the order of the answers.
        experience: to learn from.
        mix: language modelling beside it, by the policy's gradient steps so far.

    Returns:
        means over the gradient steps; ``gap`` of the first alone, whose weights still are those that answered.
    """
    from align.engine import ppo as losses
    from align.engine.step import update

    ppo, means = recipe.ppo, defaultdict(list)
    acts = partial(
        _mixed(losses.policy_terms, recipe.ptx),
        clip=ppo.clip, temperature=recipe.sampling.temperature, entropy=ppo.entropy_weight,
    )  # fmt: skip
    judges = partial(losses.value_terms, clip=ppo.value_clip, weight=ppo.value_weight)
    answers = len(experience.answers)
    for epoch in range(ppo.epochs):
        order = shuffled(answers, ppo.samples if ppo.shuffle == "prompts" else 1, epoch, recipe.seed + iteration)
        for start in range(0, answers, ppo.mini_batch):
            micros = _micros(recipe, models.widest, experience, order[start : start + ppo.mini_batch])
            judged = update(models.critic, micros, losses.value_counts, judges)
            seen = judged.losses | {"critic_grad_norm": judged.grad_norm}
            if iteration >= ppo.critic_warmup:
                mixed: list[PPOBatch | Batch] = [*micros, *(mix(models.policy.steps) if mix else [])]
                acted = update(models.policy, mixed, _counts, acts)
                seen = acted.losses | seen | {"grad_norm": acted.grad_norm}
                if epoch == start == 0:
                    means["gap"].append(seen["gap"])
            for name, value in seen.items():
                if name != "gap":
                    means[f"update/{name}"].append(value)
    return {name: sum(values) / len(values) for name, values in means.items()}


def shuffled(answers: int, together: int, epoch: int, seed: int) -> list[int]:
    """The order of an epoch's answers, addressed by epoch and seed.

    Args:
        answers: how many, those to a prompt side by side.
        together: how many neighbours stay neighbours.
        epoch: from 0.
        seed: of the iteration.
    """
    from align.data.stream import permutation

    firsts = (int(block) * together for block in permutation(answers // together, epoch, seed))
    return [first + place for first in firsts for place in range(together)]


def language_mix(ptx: PtxConfig, tokenizer: Tokenizer, seed: int) -> Mix:
    """PPO-ptx's micro-batches on this rank: dialogues' answers and plain text, packed.

    Raises:
        DataError: nothing to train on, a dialogue that cannot be used.
    """
    from pathlib import Path

    from align.data.batches import packed_batches
    from align.data.sft import sft_rows
    from align.data.text import read_text, text_rows
    from align.engine import dist
    from align.stages.sft import read

    rows = []
    for source in ptx.data:
        found = sft_rows(tokenizer, read(source), train=source.train, max_len=ptx.length, overlong=ptx.overlong)
        rows += found.rows
    if ptx.text:
        rows += text_rows(tokenizer, read_text([Path(path) for path in ptx.text]), ptx.length)
    return packed_batches(rows, ptx.batch, seed=seed, rank=dist.rank(), world=dist.world_size())


def _counts(micro: PPOBatch | Batch) -> dict[str, int]:
    from align.engine.objectives import lm_counts
    from align.engine.ppo import policy_counts

    return policy_counts(micro) if isinstance(micro, PPOBatch) else {"ptx": lm_counts(micro)["loss"]}


def _mixed(policy_terms: Callable[..., dict[str, Term]], ptx: PtxConfig | None) -> Callable[..., dict[str, Term]]:
    """The policy's terms of its own micro-batches, the language model's of those that were added."""

    def terms(engine: Engine, micro: PPOBatch | Batch, **settings: float) -> dict[str, Term]:
        from dataclasses import replace

        from align.engine.objectives import lm_terms

        if isinstance(micro, PPOBatch):
            return policy_terms(engine, micro, **settings)
        assert ptx
        return {"ptx": replace(lm_terms(engine, micro)["loss"], weight=ptx.weight)}

    return terms


def _micros(recipe: Recipe, widest: int, experience: Experience, rows: Sequence[int]) -> list[PPOBatch]:
    """This rank's share of a mini-batch, neighbours together, as forward passes of similar lengths."""
    from align.engine import dist
    from align.rollout.experience import groups, select

    mine = sorted(rows)[dist.block(len(rows))]
    parts = groups(experience.prompts, experience.answers, recipe.micro_tokens, mine, widest)
    return [select(experience, packs) for packs in parts]
