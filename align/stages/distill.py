"""Adversarial prompts and safety preprompts -> dialogues whose answers are safe without the preprompt.

Safety context distillation: the policy answers each prompt as it is and with a preprompt before it, and learns, without
the preprompt, the second answer where the safety reward model scores it above the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.data.distill import By, Form, Otherwise
from align.data.fit import Overlong
from align.errors import ArtifactError, DataError, RunError
from align.rollout.backend import SamplingConfig
from align.rollout.pool import PoolConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from align.data.tokenizer import Tokenizer
    from align.records import Messages, Preprompt, Prompt, Rollout
    from align.rollout.collect import Workers

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class Recipe:
    """Safety context distillation of the latest policy."""

    stage: Literal["distill"]
    seed: int = 0
    policy: str  # the latest
    safety: str  # the safety reward model
    prompts: str  # of these the adversarial ones: kind safety
    sources: list[str] = pydantic.Field(default_factory=list)  # of them, those of these sources; all where empty
    skip: Annotated[int, pydantic.Field(ge=0)] = 0  # of them, so many left to others
    take: Count | None = None
    preprompts: str
    by: By = "category"  # a preprompt of the prompt's risk category (meta.category) where there is one; or generic ones
    form: Form = "system"  # where the preprompt stands; plain: before the last user message
    gate: bool = True  # keep the distilled answer only where it scores above the original
    otherwise: Otherwise = "leave_out"  # what becomes of the others; original: the policy's own answer is trained
    overlong: Overlong = "error"  # a prompt that with its preprompt leaves no room for an answer
    sampling: SamplingConfig
    pool: PoolConfig = PoolConfig()
    scoring: PoolConfig | None = None  # who scores; the samplers too where None

    def __post_init__(self) -> None:
        """Refuse a fallback of a gate that is open."""
        if not self.gate and self.otherwise == "original":
            raise ValueError("otherwise: says what becomes of answers that the gate refuses; expected gate: true")


def run(recipe: Recipe, out: Path) -> None:
    """Answer every prompt twice, score both answers to the prompt alone, publish what is kept at ``out``."""
    from align.artifacts import building, folder_digest, publish, work_dir, write_jsonl
    from align.data.distill import as_dialog, as_row, gains, kept
    from align.rollout.collect import Workers

    policy, safety = Path(recipe.policy), Path(recipe.safety)
    this = Distillation(recipe, work_dir(out))
    with Workers(recipe.pool, recipe.scoring, {"safety": safety}) as workers:
        pairs = this.pairs(workers)
    chosen = [kept(pair, recipe.gate, recipe.otherwise) for pair in pairs]
    found = gains(pairs, chosen)
    digests = {"policy_sha256": folder_digest(policy), "safety_sha256": folder_digest(safety)}
    told = {"policy": policy.name, **digests, "temperature": recipe.sampling.temperature}
    dialogs = [as_dialog(pair, which, told) for pair, which in zip(pairs, chosen, strict=True) if which]
    if not dialogs:
        better = sum(pair.distilled.score > pair.original.score for pair in pairs)
        raise RunError(
            f"{out.name}: of {len(pairs)} prompts' distilled answers none is kept: {found['all']['unusable']} did not "
            f"end or cannot be said, {better} score above the original; try other preprompts, or more max_new_tokens"
        )
    with building(out) as folder:
        write_jsonl(folder / "dialogs.jsonl", dialogs)
        write_jsonl(folder / "pairs.jsonl", (as_row(pair, which) for pair, which in zip(pairs, chosen, strict=True)))
        publish(
            folder, out, stage="distill", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=[policy, safety], inputs=[Path(recipe.prompts), Path(recipe.preprompts)],
            metrics={"prompts": this.counts, "gate": recipe.gate, "dialogs": len(dialogs), **found, **digests},
        )  # fmt: skip


class Distillation:
    """What is asked, with which preprompt, and by whom it is answered and scored."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        """Read everything that is small and refuse what does not fit together, before anything is sampled."""
        from align.artifacts import sha256_file
        from align.data.tokenizer import Tokenizer
        from align.model.config import read_config

        self.recipe, self.work = recipe, work
        policy, safety = Path(recipe.policy), Path(recipe.safety)
        for folder in (policy, safety):
            if not (folder / "tokenizer.model").is_file():
                raise ArtifactError(f"{folder}: found no tokenizer.model, expected a model's folder")
        if sha256_file(policy / "tokenizer.model") != sha256_file(safety / "tokenizer.model"):
            raise ArtifactError(f"{safety}: found another tokenizer than that of {policy}, expected the same")
        self.tokenizer: Tokenizer = Tokenizer(policy / "tokenizer.model")
        context = min(read_config(folder).max_seq_len for folder in (policy, safety))
        self.asked: list[tuple[Prompt, Preprompt, Messages]] = []  # the messages: with the preprompt
        self.counts: dict[str, int] = {}
        room = context - recipe.sampling.max_new_tokens
        if room < 1:
            raise DataError(
                f"sampling.max_new_tokens: found {recipe.sampling.max_new_tokens}, expected less than the models' "
                f"context, {context}"
            )
        self._read(room)

    def _read(self, room: int) -> None:
        from dataclasses import replace

        from align.data.distill import adversarial, choose, prefixed
        from align.data.fit import fit
        from align.data.schema import read_preprompts, read_prompts
        from align.data.template import encode_prompt

        recipe = self.recipe
        everyone = list(read_prompts(recipe.prompts))
        mine = adversarial(everyone, recipe.sources, recipe.prompts)
        taken = mine[recipe.skip :][: recipe.take]
        if not taken:
            raise DataError(
                f"{recipe.prompts}: skip: found {len(mine)} adversarial prompts, expected more than {recipe.skip}"
            )
        preprompts = choose(taken, list(read_preprompts(recipe.preprompts)), recipe.by, recipe.seed, recipe.preprompts)
        cut = 0
        for prompt, preprompt in zip(taken, preprompts, strict=True):

            def size(messages: Messages, text: str = preprompt.text) -> int:
                return len(encode_prompt(self.tokenizer, prefixed(messages, text, recipe.form)))

            where = f"{recipe.prompts}: prompt {prompt.id} with its preprompt"
            messages = fit(prompt.messages, size, room, recipe.overlong, where)
            if messages is not None:
                cut += messages is not prompt.messages
                whole = replace(prompt, messages=messages)
                self.asked.append((whole, preprompt, prefixed(messages, preprompt.text, recipe.form)))
        if not self.asked:
            raise DataError(f"{recipe.prompts}: found no prompt that leaves room for an answer, expected one")
        self.counts = {
            "read": len(everyone), "adversarial": len(mine), "asked": len(self.asked), "cut": cut,
            "skipped": len(taken) - len(self.asked),
        }  # fmt: skip

    def pairs(self, workers: Workers) -> list[Any]:
        """Both answers of every prompt, scored given the prompt without the preprompt."""
        from align.data.distill import Answer, Pair
        from align.data.prompts import encode_prompts
        from align.rollout.scorebook import ScoreBook

        plain = encode_prompts(self.tokenizer, [prompt for prompt, _, _ in self.asked])
        original = self._answer(workers, [prompt.messages for prompt, _, _ in self.asked], 0, "original.jsonl")
        distilled = self._answer(workers, [messages for _, _, messages in self.asked], 1, "distilled.jsonl")
        said = [*original, *distilled]
        rows = [[*plain[rollout.prompt], *rollout.tokens] for rollout in said]
        scores = ScoreBook(self.work / "scores.jsonl").score(rows, workers.scorer("safety"))
        answers = [
            Answer(self.tokenizer.decode(rollout.tokens).strip(), score, rollout.finish)
            for rollout, score in zip(said, scores, strict=True)
        ]
        both = zip(answers[: len(original)], answers[len(original) :], strict=True)
        return [
            Pair(prompt, preprompt, first, second)
            for (prompt, preprompt, _), (first, second) in zip(self.asked, both, strict=True)
        ]

    def _answer(self, workers: Workers, asked: Sequence[Messages], step: int, name: str) -> list[Rollout]:
        """One answer to each; ``step`` addresses the randomness, with seed and prompt."""
        from align.data.prompts import requests
        from align.data.template import assemble_prompt, encode_texts
        from align.rollout import journal

        encoded = encode_texts(self.tokenizer, asked)
        wanted = requests(
            [assemble_prompt(self.tokenizer, messages, encoded) for messages in asked], seed=self.recipe.seed, step=step
        )
        pool = workers.sampler(Path(self.recipe.policy))
        return journal.generate(pool, wanted, self.recipe.sampling, self.work / name)
