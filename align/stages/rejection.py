"""Prompts -> the best of K answers from every policy so far, as dialogues to fine-tune on (paper section 3.2.3)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.data.fit import Overlong
from align.errors import DataError
from align.rollout.backend import SamplingConfig
from align.rollout.pool import PoolConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from align.records import Prompt
    from align.rollout.best import Row
    from align.rollout.collect import Workers

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class TemperatureConfig:
    """The best temperature moves with every version, so it is found anew: the grid's best expected best-of-K."""

    grid: Annotated[list[Annotated[float, pydantic.Field(gt=0)]], pydantic.Field(min_length=1)]
    prompts: Count  # probed: the last ones of the prompt file, which are held out where the grid has a choice
    samples: Count  # M answers a prompt and temperature, M >= K


@config
class Recipe:
    """Rejection sampling over all past policies."""

    stage: Literal["rejection"]
    seed: int = 0
    policies: list[str] = pydantic.Field(default_factory=list)  # oldest first; the last is the latest
    history: list[str] = pydantic.Field(default_factory=list)  # earlier rounds: their answers are used, not sampled
    sampler: str | None = None  # in place of policies: another model's round, all of whose answers are used
    selection: Literal["all_past", "latest"] = "all_past"  # latest: only its own answers compete
    history_prompts: Literal["these", "all"] = "these"  # all: prompts of earlier rounds compete for a place too
    helpful: str  # reward model artifacts
    safety: str
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)]  # a probability: below it the safety score decides
    prompts: str | None = None  # must be given where policies are sampled; a sampler's own where None
    skip: Annotated[int, pydantic.Field(ge=0)] = 0  # prompts left to other rounds
    take: Count | None = None
    samples: Count | None = None  # K, from each policy
    temperature: TemperatureConfig | None = None
    max_new_tokens: Count | None = None
    overlong: Overlong = "error"  # a prompt that leaves no room for an answer
    pool: PoolConfig = PoolConfig()
    scoring: PoolConfig | None = None  # who scores, one reward model after the other; the samplers too where None

    def __post_init__(self) -> None:
        """Refuse what says twice, or not at all, who samples and how."""
        if bool(self.policies) == bool(self.sampler):
            raise ValueError("policies: give the versions that sample, or a sampler whose samples are used, not both")
        lacking = [key for key in ("prompts", "samples", "temperature", "max_new_tokens") if getattr(self, key) is None]
        if self.policies and lacking:
            raise ValueError(f"{', '.join(lacking)}: must be given where policies are sampled")
        if self.temperature and self.temperature.samples < (self.samples or 0):
            raise ValueError(f"temperature.samples must be at least samples ({self.samples}) to estimate best-of-K")


def run(recipe: Recipe, out: Path) -> None:
    """Find the temperature, sample what is missing, score, keep the best answer of each prompt; publish at ``out``."""
    from align.artifacts import building, publish, work_dir, write_json, write_jsonl
    from align.rollout.best import as_dialog, choose, pooled, ranked
    from align.rollout.collect import Workers
    from align.rollout.curves import curve, curves, winners
    from align.rollout.history import PROBES, ROLLOUTS

    this = Round(recipe, work_dir(out))
    with Workers(recipe.pool, recipe.scoring, this.judges.folders) as workers:
        search, probes = this.find_temperature(workers)
        rows = ranked(this.judge(this.gather(workers, search["chosen"]), workers))
    best, unanswered = choose(rows)
    sizes, versions = pooled(rows), [{"name": v.name, "sha256": v.sha256} for v in this.versions]
    won = winners(best, versions)
    with building(out) as folder:
        write_jsonl(folder / ROLLOUTS, rows)
        write_jsonl(folder / PROBES, probes)
        write_jsonl(folder / "best.jsonl", (as_dialog(row, sizes[row["prompt_id"]]) for row in best))
        write_json(folder / "curves.json", {"samples": curves(rows), "temperatures": curves(probes), "winners": won})
        publish(
            folder, out, stage="rejection", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=this.parents, inputs=[Path(recipe.prompts)] if recipe.prompts else [],
            metrics={
                "policies": versions,
                "rewards": this.judges.digests,
                "tokenizer": this.judges.tokenizer_sha256,
                "temperature": search,
                "best_of_n": curve(rows),
                "winners": won,
                "rollouts": {"pooled": len(rows), "scored": this.judges.fresh},
                "prompts": len(sizes),
                "prompt_file": this.counts,
                "unanswered": unanswered,
            },
        )  # fmt: skip


class Round:
    """What a round knows: who answers, what is asked, what earlier rounds hold and who judges."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        """Read everything that is small and refuse what does not fit together, before anything is sampled."""
        from align.rollout.appraise import Judges
        from align.rollout.history import History, shelf

        self.recipe, self.work = recipe, work
        earlier = [Path(folder) for folder in ([recipe.sampler] if recipe.sampler else recipe.history)]
        policies = [Path(policy) for policy in recipe.policies]
        judges = [Path(recipe.helpful), Path(recipe.safety)]
        self.parents = list(dict.fromkeys([*policies, *earlier, *judges]))
        self.judges = Judges(judges[0], judges[1], recipe.threshold, work)
        for policy in policies:
            self.judges.check_tokenizer(policy)
        self.history = History(earlier, self.judges.digests, self.judges.tokenizer, self.judges.tokenizer_sha256)
        self.versions = shelf(self.history, policies)
        if recipe.selection == "latest":
            self.versions = self.versions[-1:]
        self.latest = self.versions[-1]
        self._read_prompts()

    def _read_prompts(self) -> None:
        """This round's prompts, the probes, and, where they compete, the prompts of earlier rounds."""
        from align.data.prompts import fit_prompts
        from align.data.schema import read_prompts
        from align.model.config import read_config

        recipe = self.recipe
        everyone: list[Prompt] = []
        self.counts: dict[str, int] = {}
        if recipe.prompts:
            contexts = [read_config(version.folder).max_seq_len for version in self.versions if version.folder]
            room = min([self.judges.context, *contexts]) - (recipe.max_new_tokens or 1)
            asked = list(read_prompts(recipe.prompts))
            everyone, self.counts = fit_prompts(self.judges.tokenizer, asked, room, recipe.overlong)
        probed = recipe.temperature.prompts if recipe.temperature and len(recipe.temperature.grid) > 1 else 0
        end = max(0, len(everyone) - probed)
        self.probes, self.prompts = everyone[end:], everyone[:end][recipe.skip :][: recipe.take]
        if recipe.prompts and not self.prompts:
            raise DataError(
                f"{recipe.prompts}: found {len(everyone)} prompts, expected more than the {probed} held out for "
                f"temperature.prompts and the {recipe.skip} of skip"
            )
        self.samples = [recipe.samples or 0] * len(self.prompts)
        if recipe.history_prompts == "all" or not recipe.prompts:
            others = self.history.other_prompts(self.prompts)
            self.prompts, self.samples = [*self.prompts, *others], [*self.samples, *[0] * len(others)]

    def find_temperature(self, workers: Workers) -> tuple[dict[str, Any], list[Row]]:
        """The temperature for the latest policy with the curve it was read from; every probe there is, scored."""
        from align.data.prompts import encode_prompts
        from align.rollout.collect import Ask, collect
        from align.rollout.curves import choose_temperature

        recipe, latest = self.recipe, self.latest
        found: dict[str, Any] = {"policy": latest.name, "policy_sha256": latest.sha256, "chosen": None, "curve": []}
        names = {version.sha256: version.name for version in self.versions}
        others = [row for row in self.history.all_probes() if row["policy_sha256"] in names.keys() - {latest.sha256}]
        probes = self.judge([row | {"policy": names[row["policy_sha256"]]} for row in others], workers)
        if not (recipe.temperature and recipe.samples and recipe.max_new_tokens):
            return found, probes
        if len(recipe.temperature.grid) == 1:
            return found | {"chosen": recipe.temperature.grid[0]}, probes
        sizes = [recipe.temperature.samples] * len(self.probes)
        encoded = encode_prompts(self.judges.tokenizer, self.probes)
        ask = Ask(self.judges.tokenizer, self.probes, encoded, sizes, recipe.seed)
        mine: list[Row] = []
        for temperature in recipe.temperature.grid:
            held = partial(self.history.probes, latest.sha256, temperature)
            sampling = SamplingConfig(temperature=temperature, max_new_tokens=recipe.max_new_tokens)
            path = self.work / f"probe-{temperature}.jsonl"
            mine += collect(ask, latest, held, workers.sampler, sampling, -1, path)
        mine = self.judge(mine, workers)
        tried = {t: [row for row in mine if row["temperature"] == t] for t in recipe.temperature.grid}
        return found | choose_temperature(tried, recipe.samples), [*probes, *mine]

    def gather(self, workers: Workers, temperature: float | None) -> list[Row]:
        """Every version's answers to every prompt, oldest version first, without the scores that are missing."""
        from align.data.prompts import encode_prompts
        from align.rollout.collect import Ask, collect

        recipe = self.recipe
        encoded = encode_prompts(self.judges.tokenizer, self.prompts)
        ask = Ask(self.judges.tokenizer, self.prompts, encoded, self.samples, recipe.seed)
        rows: list[Row] = []
        for version in self.versions:
            # a past version answers at the temperature that was found for it when it was the latest
            own = None if version is self.latest else self.history.temperature(version.sha256)
            sampling = SamplingConfig(temperature=own or temperature or 1.0, max_new_tokens=recipe.max_new_tokens or 1)
            # the place in the recipe addresses the randomness, so that a history changes no new sample
            step = [Path(policy) for policy in recipe.policies].index(version.folder) if version.folder else -1
            path = self.work / f"{step}-{version.name}-{sampling.temperature}.jsonl"
            rows += collect(
                ask, version, partial(self.history.answers, version.sha256), workers.sampler, sampling, step, path
            )
        return rows

    def judge(self, rows: Sequence[Row], workers: Workers) -> list[Row]:
        """The rows with all their scores; what earlier rounds scored with the same models is not read again."""
        return self.judges.score(rows, workers.scorer)
