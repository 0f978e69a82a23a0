"""Samples of many policies to many prompts: what earlier rounds hold is used, what is missing is sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from align.data.schema import messages_json
from align.records import Request
from align.rollout import journal
from align.rollout.pool import Pool, PoolConfig, Scorers, open_pool, open_scorers

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.records import Messages, Prompt, Rollout
    from align.rollout.backend import SamplingConfig
    from align.rollout.history import Version

Row: TypeAlias = dict[str, Any]  # of data_schemas/rollout.json


class Workers:
    """The pool of a round, opened when it is first needed: it samples, and scores too where nobody else is named."""

    def __init__(self, config: PoolConfig, scoring: PoolConfig | None, scorers: Mapping[str, Path]) -> None:
        """Nothing is started yet.

        Args:
            config: who samples.
            scoring: who scores; the samplers themselves where None.
            scorers: folders of the reward models by name.
        """
        self._config, self._scoring, self._scorers = config, scoring, scorers
        self._open = ExitStack()
        self._pool: Pool | None = None
        self._holds: Path | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._rest()

    def sampler(self, policy: Path) -> Pool:
        """The pool, holding this policy's weights."""
        if self._pool is None:
            self._pool = self._open.enter_context(open_pool(policy, self._config, self._scorers))
        elif self._holds != policy:
            self._pool.load_weights(policy)
        self._holds = policy
        return self._pool

    @contextmanager
    def scorer(self, name: str) -> Iterator[Scorers]:
        """A reward model: in the samplers where they score and are up, else by itself, the machines given up first."""
        if self._scoring is None and self._pool is not None:
            yield self._pool.scorer(name)
            return
        self._rest()
        with open_scorers(self._scorers[name], self._scoring or self._config) as scorers:
            yield scorers

    def _rest(self) -> None:
        self._open.close()
        self._pool = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of every policy of a round: the address of its randomness and the prompts."""

    tokenizer: Tokenizer
    prompts: Sequence[Prompt]
    encoded: Sequence[Sequence[int]]  # the prompts' tokens
    samples: Sequence[int]  # of each prompt
    seed: int


def collect(
    ask: Ask,
    version: Version,
    held: Callable[[Messages], Sequence[Row]],
    pool: Callable[[Path], Pool],
    sampling: SamplingConfig,
    step: int,
    path: Path,
) -> list[Row]:
    """One policy's answers to every prompt: those held, and new ones where fewer are held than asked for.

    Args:
        ask: prompts and how many samples of each.
        version: who answers; one without a folder is not sampled.
        held: the policy's earlier answers to a prompt.
        pool: gives a pool that holds a policy folder's weights; called only where something is missing.
        sampling: how.
        step: addresses the randomness, with seed, prompt and sample; new samples take the lowest free numbers.
        path: journal of the new ones.

    Returns:
        Rows prompt by prompt: the answers held, with what scores they have, and the new ones, which have none.
    """
    kept: list[list[Row]] = []
    requests: list[Request] = []
    for index, (prompt, tokens, samples) in enumerate(zip(ask.prompts, ask.encoded, ask.samples, strict=True)):
        rows = same_prompt(prompt, held(prompt.messages))
        kept.append([about(prompt, row | {"policy": version.name}) for row in rows])
        taken = {row["sample"] for row in rows}
        missing = max(0, samples - len(rows)) if version.folder else 0
        free = (sample for sample in range(len(taken) + missing) if sample not in taken)
        requests += [
            Request(index, tuple(tokens), sample=sample, seed=ask.seed, step=step)
            for sample, _ in zip(free, range(missing), strict=False)
        ]
    if requests and version.folder:
        for r in journal.generate(pool(version.folder), requests, sampling, path):
            kept[r.prompt].append(told(ask.tokenizer, ask.prompts[r.prompt], r, version, sampling.temperature))
    return [row for rows in kept for row in rows]


def same_prompt(prompt: Prompt, rows: Sequence[Row]) -> Sequence[Row]:
    """Of the answers to a prompt's messages those under its own id; where there are none, each different sample once.

    Prompts of one file may be alike: then each has samples of its own. One sample may be told under two ids where a
    round took it from another, whose prompts had other ids.
    """
    own = [row for row in rows if row["prompt_id"] == prompt.id]
    return own or list({(row["sample"], row["temperature"], *row["tokens"]): row for row in rows}.values())


def told(tokenizer: Tokenizer, prompt: Prompt, rollout: Rollout, version: Version, temperature: float) -> Row:
    """A rollout as a row of the schema, without scores yet."""
    return about(
        prompt,
        {
            "answer": tokenizer.decode(rollout.tokens).strip(),
            "policy": version.name,
            "policy_sha256": version.sha256,
            "sample": rollout.sample,
            "temperature": temperature,
            "tokens": list(rollout.tokens),
            "logprob": sum(rollout.logprobs),
            "finish": rollout.finish,
            "scores": {},
        },
    )


def about(prompt: Prompt, row: Row) -> Row:
    """An answer's row with its prompt as this round knows it."""
    asked: Row = {"prompt_id": prompt.id, "prompt": messages_json(prompt.messages), "kind": prompt.kind}
    if prompt.source:
        asked["source"] = prompt.source
    if prompt.meta:
        asked["meta"] = dict(prompt.meta)
    rest = {key: value for key, value in row.items() if key not in ("prompt_id", "prompt", "kind", "source", "meta")}
    return asked | rest
