"""Policies and a judge -> how good, how safe, how far from where they started, and for how many turns they obey."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.data.fit import Overlong
from align.errors import nearest
from align.rollout.backend import SamplingConfig
from align.stages.judges import JudgeConfig, check_names, load_comparers, load_judge, load_scorers
from align.stages.tallies import mean, mean_of_known, share, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from align.data.tokenizer import Tokenizer
    from align.model.llama import Llama
    from align.records import Prompt, Rollout
    from align.rollout.judge import RewardModels
    from align.rollout.local import LocalEngine
    from align.stages.judges import Verdict

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class DialogueConfig:
    """Long dialogues under an instruction given once, in the system message."""

    prompts: str  # each row: a system message and user turns; answers between them are the policy's own
    turns: list[Count]  # where the instruction is checked
    sampling: SamplingConfig | None = None  # of the dialogues; null: as all other answers


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
    judge: str | None = None  # "package.module:function" of (prompt: Prompt, answer: str) -> Verdict
    rewards: RewardsConfig | None = None  # judged by reward models, beside a judge or in its place
    judges: dict[str, JudgeConfig] = pydantic.Field(default_factory=dict)  # more of them, by name
    by: str | None = None  # a key of the prompts' meta: the judge's helpfulness by its value, within each source
    prompts: str
    take: Count | None = None
    overlong: Overlong = "error"  # a prompt that leaves no room for an answer
    dialogues: DialogueConfig | None = None
    sampling: SamplingConfig
    slots: Count = 128
    along: dict[str, dict[str, float]] = pydantic.Field(default_factory=dict)  # axis -> policy -> place: figures
    against_kl: dict[str, list[str]] = pydantic.Field(default_factory=dict)  # training run -> its policies: figures

    def __post_init__(self) -> None:
        """Refuse an evaluation that nobody judges."""
        if self.judge is None and (not (self.rewards or self.judges) or self.dialogues is not None):
            raise ValueError("judge: must be given for dialogues, and where there are no rewards and no judges")
        if self.judge is None and self.by is not None:
            raise ValueError("judge: must be given where `by` is")
        for name in (name for places in self.along.values() for name in places if name not in self.policies):
            raise ValueError(f"along: found {name!r}, expected a name of policies{nearest(name, self.policies)}")
        for name in (name for run in self.against_kl.values() for name in run if name not in self.policies):
            raise ValueError(f"against_kl: found {name!r}, expected a name of policies{nearest(name, self.policies)}")
        check_names(self.judges)


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
    from align.stages import pairs
    from align.stages.obedience import obedience

    work = work_dir(out)
    judge = load_judge(recipe.judge) if recipe.judge else None
    scorers, comparers = load_scorers(recipe.judges), load_comparers(recipe.judges)
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
    answers: dict[str, list[dict[str, Any]]] = {}
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
            answered = [prompts[r.prompt] for r in rollouts]
            marks = {key: score(answered, texts) for key, score in scorers.items()}
            if marks:
                table[name]["judges"] = {key: mean_of_known(given) for key, given in marks.items()}
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
            answers[name] = [
                row(name, prompt, text, judged[place] if judge else None, scores[place] if scores else None)
                | ({"judges": {key: given[place] for key, given in marks.items()}} if marks else {})
                for place, (prompt, text) in enumerate(zip(answered, texts, strict=True))
            ]
            log.log(
                number, {key: table[name][key]["mean"] for key in ("helpful", "reward", "kl") if key in table[name]}
            )
    told, compared = pairs.compare_policies(
        answers, {prompt.id: prompt for prompt in prompts}, comparers, recipe.seed, work / pairs.LEDGER
    )
    with building(out) as made:
        write_jsonl(made / "answers.jsonl", [each for rows in answers.values() for each in rows])
        if recipe.by:
            write_json(made / "figures.json", figures_by({n: m["by"] for n, m in table.items()}, recipe.by, "helpful"))
        write_json(made / pairs.FILE, told)
        if comparers:
            write_jsonl(made / pairs.LEDGER, compared)
        publish(
            made, out, stage="evaluate", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=[Path(p) for p in dict.fromkeys((*recipe.policies.values(), recipe.reference, *models_of(recipe)))],
            inputs=[Path(recipe.prompts), *([Path(recipe.dialogues.prompts)] if recipe.dialogues else [])],
            metrics={"policies": table},
        )  # fmt: skip


def models_of(recipe: Recipe) -> list[str]:
    """The folders of the reward models that judge."""
    given = [recipe.rewards.helpful, recipe.rewards.safety] if recipe.rewards else []
    return given + [judge.reward for judge in recipe.judges.values() if judge.reward]


def answer(sampler: LocalEngine, tokenizer: Tokenizer, prompts: Sequence[Prompt], recipe: Recipe) -> list[Rollout]:
    """One answer a prompt; every policy meets the same randomness."""
    from align.data.prompts import encode_prompts, requests

    return sampler.generate(requests(encode_prompts(tokenizer, prompts), seed=recipe.seed), recipe.sampling)


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
    temperature 1; ``tokens`` are those of an answer; ``reward`` is the combined score, logits, and ``safety`` the
    safety model's alone, on the prompts of kind ``safety`` where there are any.
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
    adversarial = [prompts[r.prompt].kind == "safety" for r in rollouts]
    scores = rewards.score(asked, said, adversarial)
    found["reward"] = mean(scores.combined.tolist())
    if any(adversarial):
        found["safety"] = mean(itertools.compress(scores.safety.tolist(), adversarial))
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
        told |= {key: getattr(verdict, key) for key in ("helpful", "safe", "refused", "should_refuse", "kept")}
    return told | ({"scores": dict(scores)} if scores else {})
