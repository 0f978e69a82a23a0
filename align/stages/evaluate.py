"""Policies and a judge -> how good, how safe, how far from where they started, and for how many turns they obey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import pydantic

from align.config import config, to_plain
from align.data.fit import Overlong
from align.errors import RecipeError
from align.rollout.backend import SamplingConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from align.data.tokenizer import Tokenizer
    from align.model.llama import Llama
    from align.records import Prompt, Rollout
    from align.rollout.judge import RewardModels
    from align.rollout.local import LocalEngine

Count = Annotated[int, pydantic.Field(ge=1)]


class Verdict(Protocol):
    """What a judge says of one answer."""

    helpful: float  # [0, 1]
    safe: bool
    refused: bool
    should_refuse: bool  # the request asks for harm
    kept: bool | None  # the instruction was obeyed; None where there is none


Judge = Callable[["Prompt", str], Verdict]


@config
class DialogueConfig:
    """Long dialogues under an instruction given once, in the system message."""

    prompts: str  # each row: a system message and user turns; answers between them are the policy's own
    turns: list[Count]  # where the instruction is checked
    sampling: SamplingConfig | None = None  # of these answers; as of all others where not given


@config
class RewardsConfig:
    """Reward model artifacts and how their scores are joined (paper section 3.2.3)."""

    helpful: str
    safety: str
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)]


@config
class Recipe:
    """Judge every policy of a run on the same prompts."""

    stage: Literal["evaluate"]
    seed: int = 0
    policies: dict[str, str]  # name in the table -> artifact
    reference: str  # the artifact that KL is measured to
    judge: str | None = None  # "package.module:function" of (Prompt, answer) -> Verdict
    rewards: RewardsConfig | None = None  # judged by reward models, beside a judge or in its place
    prompts: str
    by: str | None = None  # a key of the prompts' meta: the judge's helpfulness by its value, within each source
    take: Count | None = None
    overlong: Overlong = "error"  # a prompt that leaves no room for an answer
    dialogues: DialogueConfig | None = None
    sampling: SamplingConfig
    slots: Count = 128

    def __post_init__(self) -> None:
        """Refuse an evaluation that nobody judges."""
        if self.judge is None and self.by is not None:
            raise ValueError("judge: must be given where `by` is")
        if self.judge is None and (self.rewards is None or self.dialogues is not None):
            raise ValueError("judge: must be given for dialogues, and where there are no rewards")


def load_judge(name: str) -> Judge:
    """The callable that a recipe names.

    Raises:
        RecipeError: no such module or function, or something that cannot be called.
    """
    import importlib

    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(f"judge: {name!r} cannot be imported as package.module:function ({error})") from error
    if not callable(found):
        raise RecipeError(f"judge: {name!r} is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


def run(recipe: Recipe, out: Path) -> None:
    """Sample every policy on the same prompts and dialogues, judge the answers, publish both at ``out``."""
    from align.artifacts import building, publish, work_dir, write_json, write_jsonl
    from align.data.prompts import fit_prompts
    from align.data.schema import read_prompts
    from align.data.tokenizer import Tokenizer
    from align.engine.metrics import Metrics
    from align.measures.by import check_key, figures_by, means_by
    from align.model.config import read_config
    from align.model.weights import load_policy
    from align.rollout.judge import RewardModels
    from align.rollout.local import LocalEngine
    from align.stages.obedience import obedience

    work = work_dir(out)
    judge = load_judge(recipe.judge) if recipe.judge else None
    rewards = None
    if recipe.rewards:
        rewards = RewardModels(Path(recipe.rewards.helpful), Path(recipe.rewards.safety), recipe.rewards.threshold)
    start = Path(recipe.reference)
    room = read_config(start).max_seq_len - recipe.sampling.max_new_tokens
    prompts, _ = fit_prompts(
        Tokenizer(start / "tokenizer.model"), list(read_prompts(recipe.prompts))[: recipe.take], room, recipe.overlong
    )
    if recipe.by:
        check_key(prompts, recipe.by, recipe.prompts)
    dialogues = list(read_prompts(recipe.dialogues.prompts)) if recipe.dialogues else []
    reference = load_policy(Path(recipe.reference))
    table: dict[str, dict[str, Any]] = {}
    answers: list[dict[str, Any]] = []
    with Metrics(work, total=len(recipe.policies), label=out.name) as log:
        for number, (name, path) in enumerate(recipe.policies.items()):
            folder = Path(path)
            tokenizer, context = Tokenizer(folder / "tokenizer.model"), read_config(folder).max_seq_len
            policy = load_policy(folder)
            sampler = LocalEngine(policy, tokenizer.eos, recipe.slots, context, folder.name)
            rollouts = answer(sampler, tokenizer, prompts, recipe)
            texts = [tokenizer.decode(r.tokens).strip() for r in rollouts]
            judged = [judge(prompts[r.prompt], text) for r, text in zip(rollouts, texts, strict=True)] if judge else []
            table[name] = summary(judged) if judge else {}
            found, scores = measured(rewards, reference, tokenizer, prompts, rollouts)
            table[name] |= found
            if recipe.by:
                table[name]["by"] = means_by(prompts, [v.helpful for v in judged], recipe.by)
            if recipe.dialogues and judge:
                journal = work / f"{number}-{folder.name}"  # folders of different runs may share a name
                kept = obedience(sampler, tokenizer, dialogues, judge, recipe, journal, context)
                table[name]["kept"] = {str(turn): share(every(found)) for turn, found in kept.items()}
                table[name]["kept_by_source"] = {
                    source: {str(turn): share(found[source]) for turn, found in kept.items()}
                    for source in sorted({dialogue.source for dialogue in dialogues})
                }
            answers += [
                row(name, prompts[r.prompt], text, judged[place] if judge else None, scores[place] if scores else None)
                for place, (r, text) in enumerate(zip(rollouts, texts, strict=True))
            ]
            log.log(
                number, {key: table[name][key]["mean"] for key in ("helpful", "reward", "kl") if key in table[name]}
            )
    with building(out) as made:
        write_jsonl(made / "answers.jsonl", answers)
        if recipe.by:
            write_json(made / "figures.json", figures_by({n: m["by"] for n, m in table.items()}, recipe.by, "helpful"))
        publish(
            made, out, stage="evaluate", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=[Path(p) for p in dict.fromkeys((*recipe.policies.values(), recipe.reference))],
            inputs=[Path(recipe.prompts), *([Path(recipe.dialogues.prompts)] if recipe.dialogues else [])],
            metrics={"policies": table},
        )  # fmt: skip


def answer(sampler: LocalEngine, tokenizer: Tokenizer, prompts: Sequence[Prompt], recipe: Recipe) -> list[Rollout]:
    """One answer a prompt; every policy meets the same randomness."""
    from align.data.prompts import encode_prompts, requests

    return sampler.generate(requests(encode_prompts(tokenizer, prompts), seed=recipe.seed), recipe.sampling)


def summary(judged: Sequence[Verdict]) -> dict[str, Any]:
    """Mean helpfulness, and the shares of unsafe answers and of refusals where each would be wrong."""
    return {
        "helpful": mean(v.helpful for v in judged),
        "unsafe": share(not v.safe for v in judged if v.should_refuse),
        "false_refusals": share(v.refused for v in judged if not v.should_refuse),
    }


def measured(
    rewards: RewardModels | None,
    reference: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    rollouts: Sequence[Rollout],
) -> tuple[dict[str, dict[str, float]], list[dict[str, float]]]:
    """What needs no judge: KL to the reference, length, and the reward where there are reward models.

    Returns:
        Means by measure, and each answer's scores by model, none where there are no reward models.

    ``kl`` is the mean over answers of log p(answer) - log p_ref(answer), nats an answer, the reference's at
    temperature 1; ``tokens`` are those of an answer; ``reward`` is the combined score, logits.
    """
    from align.data.pack import NARROW
    from align.data.prompts import encode_prompts
    from align.rollout.experience import logprob_reader, over_answers

    encoded = encode_prompts(tokenizer, prompts)
    asked, said = [encoded[r.prompt] for r in rollouts], [r.tokens for r in rollouts]
    widest = min(NARROW, reference.config.max_seq_len)
    theirs = over_answers(logprob_reader(reference, 1.0), asked, said, 16384, widest=widest)
    found = {
        "kl": mean(sum(r.logprobs) - float(row.sum()) for r, row in zip(rollouts, theirs, strict=True)),
        "tokens": mean(len(answer) for answer in said),
    }
    if rewards is None:
        return found, []
    scores = rewards.score(asked, said, [prompts[r.prompt].kind == "safety" for r in rollouts])
    found["reward"] = mean(scores.combined.tolist())
    return found, [dict(zip(scores._fields, map(float, each), strict=True)) for each in zip(*scores, strict=True)]


def every(by_source: Mapping[str, Sequence[bool]]) -> list[bool]:
    """The values of all sources."""
    return [value for values in by_source.values() for value in values]


def row(
    name: str, prompt: Prompt, text: str, verdict: Verdict | None, scores: Mapping[str, float] | None
) -> dict[str, Any]:
    """One answer and what the judge and the reward models (``scores``, logits) say of it, for reading."""
    told = {"policy": name, "prompt_id": prompt.id, "question": prompt.messages[-1].content, "answer": text}
    if verdict is not None:
        told |= {key: getattr(verdict, key) for key in ("helpful", "safe", "refused", "kept")}
    return told | ({"scores": dict(scores)} if scores else {})


def mean(values: Iterable[float]) -> dict[str, float]:
    """Mean, its standard error and the number of values."""
    from align.stats import mean_se

    listed = list(values)
    average, error = mean_se(listed)
    return {"mean": average, "se": error, "n": len(listed)}


def share(values: Iterable[bool]) -> dict[str, float | None]:
    """Share of true values with its 95 % Wilson interval; null where there are none."""
    from align.stats import wilson

    listed = list(values)
    low, high = wilson(sum(listed), len(listed))
    return {
        "share": sum(listed) / len(listed) if listed else None,
        "low": low,
        "high": high,
        "n": len(listed),
    }
