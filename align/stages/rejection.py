"""Prompts -> the best of K answers from every past policy, as dialogues to fine-tune on (paper section 3.2.3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.data.fit import Overlong
from align.rollout.backend import SamplingConfig
from align.rollout.pool import PoolConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from align.data.tokenizer import Tokenizer
    from align.records import Prompt, Rollout
    from align.rollout.judge import RewardModels
    from align.rollout.pool import Pool

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class TemperatureConfig:
    """The best temperature moves with every version, so it is found anew: the grid's best expected best-of-K."""

    grid: Annotated[list[Annotated[float, pydantic.Field(gt=0)]], pydantic.Field(min_length=1)]
    prompts: Count  # probed: the last ones of the prompt file
    samples: Count  # M answers a prompt and temperature, M >= K


@config
class Recipe:
    """Rejection sampling over all past policies."""

    stage: Literal["rejection"]
    seed: int = 0
    policies: Annotated[list[str], pydantic.Field(min_length=1)]  # the shelf, oldest first; the last is the latest
    helpful: str  # reward model artifacts
    safety: str
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)]  # a probability: below it the safety score decides
    prompts: str
    skip: Annotated[int, pydantic.Field(ge=0)] = 0  # prompts left to other rounds
    take: Count | None = None
    samples: Count  # K, from each policy
    temperature: TemperatureConfig
    max_new_tokens: Count
    overlong: Overlong = "error"  # a prompt that leaves no room for an answer
    pool: PoolConfig = PoolConfig()

    def __post_init__(self) -> None:
        if self.temperature.samples < self.samples:
            raise ValueError(f"temperature.samples must be at least samples ({self.samples}) to estimate best-of-K")


def run(recipe: Recipe, out: Path) -> None:
    """Find the temperature, sample every policy, score, keep the best answer of each prompt; publish at ``out``."""
    from align.artifacts import building, publish, work_dir, write_jsonl
    from align.data.prompts import fit_prompts
    from align.data.schema import read_prompts
    from align.data.tokenizer import Tokenizer
    from align.model.config import read_config
    from align.rollout.judge import RewardModels
    from align.rollout.pool import open_pool

    work, latest = work_dir(out), Path(recipe.policies[-1])
    tokenizer = Tokenizer(latest / "tokenizer.model")
    room = read_config(latest).max_seq_len - recipe.max_new_tokens
    everyone, dropped = fit_prompts(tokenizer, list(read_prompts(recipe.prompts)), room, recipe.overlong)
    probes, prompts = everyone[-recipe.temperature.prompts :], everyone[recipe.skip :][: recipe.take]
    judge = RewardModels(Path(recipe.helpful), Path(recipe.safety), recipe.threshold)

    pooled: list[dict[str, Any]] = []
    with open_pool(latest, recipe.pool) as pool:
        search = find_temperature(recipe, pool, judge, tokenizer, probes, work)
        for number, policy in enumerate(recipe.policies):
            pool.load_weights(Path(policy))
            sampling = SamplingConfig(temperature=search["chosen"], max_new_tokens=recipe.max_new_tokens)
            journal = work / f"{number}-{Path(policy).name}-{sampling.temperature}.jsonl"
            sampled = sample(pool, tokenizer, prompts, recipe.samples, sampling, recipe.seed, number, journal)
            pooled += scored(judge, tokenizer, prompts, sampled, Path(policy).name, sampling.temperature)

    best, unanswered = choose(pooled)
    with building(out) as folder:
        write_jsonl(folder / "rollouts.jsonl", pooled)
        write_jsonl(folder / "best.jsonl", (as_dialog(rollout) for rollout in best))
        publish(
            folder, out, stage="rejection", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=[Path(p) for p in (*recipe.policies, recipe.helpful, recipe.safety)], inputs=[Path(recipe.prompts)],
            metrics={
                "temperature": search,
                "best_of_n": curve(pooled, recipe.samples),
                "winners": Counter(rollout["policy"] for rollout in best),
                "prompts": len(prompts),
                "prompt_file": dropped,
                "unanswered": unanswered,
            },
        )  # fmt: skip


def sample(
    pool: Pool, tokenizer: Tokenizer, prompts: Sequence[Prompt], samples: int, sampling: SamplingConfig,
    seed: int, step: int, journal: Path,
) -> list[Rollout]:  # fmt: skip
    """``samples`` answers to each prompt, prompt by prompt; what the journal holds is not sampled again."""
    from align.data.prompts import encode_prompts, requests
    from align.rollout.journal import generate

    asked = requests(encode_prompts(tokenizer, prompts), samples=samples, seed=seed, step=step)
    return generate(pool, asked, sampling, journal)


def scored(
    judge: RewardModels, tokenizer: Tokenizer, prompts: Sequence[Prompt], rollouts: Sequence[Rollout],
    policy: str, temperature: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rollouts with their scores, as rows of the rollout schema."""
    from align.data.prompts import encode_prompts
    from align.data.schema import messages_json

    encoded = encode_prompts(tokenizer, prompts)
    scores = judge.score(
        [encoded[r.prompt] for r in rollouts],
        [r.tokens for r in rollouts],
        [prompts[r.prompt].kind == "safety" for r in rollouts],
    )
    return [
        {
            "prompt_id": prompts[r.prompt].id,
            "prompt": messages_json(prompts[r.prompt].messages),
            "answer": tokenizer.decode(r.tokens).strip(),
            "policy": policy,
            "sample": r.sample,
            "temperature": temperature,
            "tokens": list(r.tokens),
            "logprob": sum(r.logprobs),
            "finish": r.finish,
            "scores": {"helpful": helpful, "safety": safety, "combined": combined},
        }
        for r, helpful, safety, combined in zip(
            rollouts, scores.helpful.tolist(), scores.safety.tolist(), scores.combined.tolist(), strict=True
        )
    ]


def find_temperature(
    recipe: Recipe,
    pool: Pool,
    judge: RewardModels,
    tokenizer: Tokenizer,
    probes: Sequence[Prompt],
    work: Path,
) -> dict[str, Any]:
    """The grid temperature whose best of K is expected to score highest, with the curve it was read from."""
    if len(recipe.temperature.grid) == 1:
        return {"chosen": recipe.temperature.grid[0], "curve": []}
    points = []
    for temperature in recipe.temperature.grid:
        sampling = SamplingConfig(temperature=temperature, max_new_tokens=recipe.max_new_tokens)
        journal = work / f"probe-{temperature}.jsonl"
        sampled = sample(pool, tokenizer, probes, recipe.temperature.samples, sampling, recipe.seed, -1, journal)
        rows = scored(judge, tokenizer, probes, sampled, "latest", temperature)
        mean, error = expected_best(rows, recipe.samples)
        points.append({"temperature": temperature, "expected_best": mean, "standard_error": error})
    return {"chosen": max(points, key=lambda p: p["expected_best"])["temperature"], "curve": points}


def expected_best(rows: Sequence[dict[str, Any]], k: int) -> tuple[float, float]:
    """Mean over prompts, with its standard error, of the unbiased estimate of the best of ``k`` scores."""
    from align.stats import best_of, mean_se

    return mean_se([best_of(scores, k) for scores in by_prompt(rows).values()])


def curve(rows: Sequence[dict[str, Any]], samples: int) -> list[dict[str, float]]:
    """Expected maximum and median score against N = 1 … K, the policies' samples taken together (paper figure 7)."""
    from statistics import fmean, median

    groups = by_prompt(rows)
    middle = fmean(median(scores) for scores in groups.values())
    return [{"n": n, "max": expected_best(rows, n)[0], "median": middle} for n in range(1, samples + 1)]


def by_prompt(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Combined scores by prompt."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row["prompt_id"]].append(row["scores"]["combined"])
    return dict(groups)


def choose(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The best answer of each prompt that ended and that the chat format can hold; how many prompts have none."""
    from align.data.template import sayable

    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        usable = row["finish"] == "stop" and sayable(row["answer"])
        held = best.get(row["prompt_id"])
        if usable and (held is None or row["scores"]["combined"] > held["scores"]["combined"]):
            best[row["prompt_id"]] = row
    return list(best.values()), len({row["prompt_id"] for row in rows}) - len(best)


def as_dialog(row: dict[str, Any]) -> dict[str, Any]:
    """A chosen rollout as a dialogue, with where it came from."""
    answer = {"role": "assistant", "content": row["answer"]}
    source = f"{row['policy']} T={row['temperature']} score={row['scores']['combined']:.3f}"
    return {"messages": [*row["prompt"], answer], "source": source}
