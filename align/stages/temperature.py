"""Policies and prompts -> how alike each policy's answers to a prompt are, temperature by temperature."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.data.fit import Overlong
from align.errors import DataError, nearest
from align.rollout.backend import SamplingConfig, Share

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.records import Prompt

Count = Annotated[int, pydantic.Field(ge=1)]
Temperature = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
FORMAT = 1


@config
class PromptsConfig:
    """One set of prompts."""

    path: str
    sources: list[str] = pydantic.Field(default_factory=list)  # only prompts of these sources; empty takes all
    take: Count | None = None  # the first so many of them


@config
class Recipe:
    """Self-BLEU of several answers to a prompt, by policy, set of prompts and temperature."""

    stage: Literal["temperature"]
    seed: int = 0
    policies: Annotated[dict[str, str], pydantic.Field(min_length=1)]  # name in the figure -> artifact, oldest first
    prompts: Annotated[dict[str, PromptsConfig], pydantic.Field(min_length=1)]  # name of a set, say factual
    temperatures: Annotated[list[Temperature], pydantic.Field(min_length=1)]
    samples: Annotated[int, pydantic.Field(ge=2)]
    max_new_tokens: Count
    top_p: Share = 1.0
    overlong: Overlong = "error"  # a prompt that leaves no room for an answer
    slots: Count = 128

    def __post_init__(self) -> None:
        """Refuse a temperature that is given twice."""
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures: found {self.temperatures}, expected each once")


def run(recipe: Recipe, out: Path) -> None:
    """Sample every policy at every temperature, publish answers and curves at ``out``."""
    from align.artifacts import building, publish, work_dir, write_json, write_jsonl
    from align.data.prompts import encode_prompts, requests
    from align.data.tokenizer import Tokenizer
    from align.engine.metrics import Metrics
    from align.measures.diversity import curve
    from align.model.config import read_config
    from align.model.weights import load_policy
    from align.rollout.journal import generate
    from align.rollout.local import LocalEngine

    work, rows, curves = work_dir(out), [], []
    with Metrics(work, total=len(recipe.policies) * len(recipe.temperatures), label=out.name) as log:
        for number, (name, path) in enumerate(recipe.policies.items()):
            folder = Path(path)
            tokenizer, context = Tokenizer(folder / "tokenizer.model"), read_config(folder).max_seq_len
            sets = read_sets(recipe, tokenizer, context - recipe.max_new_tokens)
            asked = [(key, prompt) for key, prompts in sets.items() for prompt in prompts]
            encoded = encode_prompts(tokenizer, [prompt for _, prompt in asked])
            sampler = LocalEngine(load_policy(folder), tokenizer.eos, recipe.slots, context, folder.name)
            said: Answers = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
            for place, temperature in enumerate(recipe.temperatures):
                sampling = SamplingConfig(
                    temperature=temperature, top_p=recipe.top_p, max_new_tokens=recipe.max_new_tokens
                )
                wanted = requests(encoded, samples=recipe.samples, seed=recipe.seed)
                for rollout in generate(sampler, wanted, sampling, work / f"{number}-{place}.jsonl"):
                    key, prompt = asked[rollout.prompt]
                    text = tokenizer.decode(rollout.tokens).strip()
                    said[key][temperature][prompt.id].append(text)
                    rows.append({"policy": name, "prompts": key, "prompt_id": prompt.id, "temperature": temperature,
                                 "sample": rollout.sample, "answer": text})  # fmt: skip
                log.log(number * len(recipe.temperatures) + place, {"temperature": temperature})
            curves += [{"policy": name, "prompts": key, "n": len(sets[key]), **curve(said[key])} for key in sets]
    told = {"format": FORMAT, "samples": recipe.samples, "curves": curves}
    with building(out) as made:
        write_jsonl(made / "answers.jsonl", rows)
        write_json(made / "self_bleu.json", told)
        write_json(made / "figures.json", figures(told))
        publish(
            made, out, stage="temperature", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=[Path(p) for p in dict.fromkeys(recipe.policies.values())],
            inputs=[Path(p) for p in dict.fromkeys(given.path for given in recipe.prompts.values())],
            metrics={"curves": curves},
        )  # fmt: skip


Answers = dict[str, dict[float, dict[str, list[str]]]]  # by set of prompts, temperature and prompt


def read_sets(recipe: Recipe, tokenizer: Tokenizer, room: int) -> dict[str, list[Prompt]]:
    """The prompts of every set.

    Raises:
        DataError: a set without prompts, or a prompt that is too long.
    """
    from align.data.prompts import fit_prompts
    from align.data.schema import read_prompts

    found = {}
    for name, given in recipe.prompts.items():
        prompts = list(read_prompts(given.path))
        known = sorted({prompt.source for prompt in prompts})
        if missing := [source for source in given.sources if source not in known]:
            raise DataError(
                f"{given.path}: no prompt of source {missing[0]!r}{nearest(missing[0], known)}; there are "
                f"{', '.join(map(repr, known))}"
            )
        chosen = [prompt for prompt in prompts if not given.sources or prompt.source in given.sources]
        found[name], _ = fit_prompts(tokenizer, chosen[: given.take], room, recipe.overlong)
        if not found[name]:
            raise DataError(f"{given.path}: found no prompts for {name!r}, expected at least one")
    return found


def figures(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A figure for each set of prompts, a curve for each policy, as the report draws them."""
    by_set: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in told["curves"]:
        by_set[each["prompts"]].append(each)
    return [
        {
            "name": f"self-bleu-{name}",
            "title": f"Self-BLEU by temperature: {name} prompts",
            "x": "temperature",
            "y": f"Self-BLEU of {told['samples']} answers",
            "series": [_series(each["policy"], each["points"]) for each in curves],
        }
        for name, curves in by_set.items()
    ]


def _series(name: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "points": [[at["temperature"], at["mean"]] for at in points],
        "low": [at["low"] for at in points],
        "high": [at["high"] for at in points],
    }
