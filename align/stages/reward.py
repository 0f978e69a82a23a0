"""Preferences -> a reward model by the margin binary ranking loss (paper section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pydantic

from align.config import config, to_plain
from align.data.batches import BatchConfig, check_length, pair_batches
from align.engine.launch import LaunchConfig
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig
from align.errors import DataError, nearest
from align.model.config import LoraConfig
from align.records import PairBatch

if TYPE_CHECKING:
    from align.data.preference import PairRows
    from align.data.tokenizer import Tokenizer
    from align.engine.step import Term
    from align.engine.zero import Engine
    from align.model.heads import Scorer
    from align.records import Preference, Ranking

MeanOver: TypeAlias = Literal["pairs", "prompts"]


@config
class MixConfig:
    """All rows of ``main``, and rows drawn from ``other`` until ``main`` is ``main_share`` of the whole.

    Files of preferences or of rankings; a ranking is one row, with all its pairs. Left out, and counted, are the rows
    whose prompt stands in a held-out set too.
    """

    main: Annotated[list[str], pydantic.Field(min_length=1)]
    other: list[str] = pydantic.Field(default_factory=list)
    main_share: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if twice := [path for path, count in Counter((*self.main, *self.other)).items() if count > 1]:
            raise ValueError(f"{twice[0]} is named twice in main and other; expected each file once")
        if not self.other and self.main_share < 1:
            raise ValueError(f"main_share {self.main_share:g} needs files in other; expected some, or main_share 1")


@config
class Recipe:
    """A reward model, helpfulness or safety by its data."""

    stage: Literal["reward"]
    seed: int = 0
    policy: str  # the chat artifact to start from: its language head gives way to a scalar head; or a reward model
    data: MixConfig
    held_out: dict[str, str]  # name of a set -> file; accuracy is told for each
    margins: Literal["none", "small", "large"]
    # every comparison weighs the same, or every prompt however many were made of its answers (InstructGPT, equation 1)
    mean_over: MeanOver = "pairs"
    safety_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0  # auxiliary safety classification
    overlong: Literal["error", "cut", "skip"] = "error"
    batch: BatchConfig
    optim: OptimConfig
    zero: ZeroConfig
    lora: LoraConfig | None = None  # adapters on a frozen body, merged in the artifact; null: every weight trains
    launch: LaunchConfig = LaunchConfig()
    save_every: int = 200
    measure_every: Annotated[int, pydantic.Field(ge=0)] = 0  # updates from one look at held-out sets to the next
    measure_sets: list[str] = pydantic.Field(default_factory=list)  # which of them; all where empty

    def __post_init__(self) -> None:
        if self.measure_sets and not self.measure_every:
            raise ValueError(
                "measure_sets are looked at every measure_every updates; expected measure_every of 1 or more"
            )
        for name in self.measure_sets:
            if name not in self.held_out:
                raise ValueError(
                    f"measure_sets: found {name!r}, expected names in held_out{nearest(name, self.held_out)}"
                )
        for name, path in self.held_out.items():
            if path in (*self.data.main, *self.data.other):
                raise ValueError(f"held_out.{name}: {path} is trained on; expected a file of other prompts")


def run(recipe: Recipe, out: Path) -> None:
    """Train the reward model, measure it on the held-out sets, publish it at ``out``."""
    from align.artifacts import work_dir, write_json
    from align.data.batches import held_out_batches
    from align.data.compared import compared_rows
    from align.data.tokenizer import Tokenizer
    from align.engine import dist
    from align.engine.export import export
    from align.engine.fit import fit
    from align.engine.metrics import read_metrics
    from align.engine.watch import curve, look
    from align.engine.zero import wrap
    from align.engine.zero_state import copy_weights
    from align.measures.reward import by_rating, document
    from align.model.config import read_config
    from align.model.heads import Scorer
    from align.model.lora import adapted

    dist.setup()
    start = Path(recipe.policy)
    check_length(recipe.batch, read_config(start).max_seq_len)
    tokenizer = Tokenizer(start / "tokenizer.model")
    places, records, shared = _drawn(recipe)
    encoded = compared_rows(
        tokenizer, records, margins=recipe.margins, max_len=recipe.batch.length, overlong=recipe.overlong, places=places
    )
    if not encoded.rows:
        raise DataError(f"data: found no pair to train on: {encoded.counts}; expected at least one")
    held = {name: _held_out(name, path, tokenizer, recipe.batch.length) for name, path in recipe.held_out.items()}

    batches = pair_batches(encoded.rows, recipe.batch, seed=recipe.seed, rank=dist.rank(), world=dist.world_size())
    model = adapted(_begin(start, recipe.seed), recipe.lora, recipe.seed)
    engine = wrap(model, recipe.optim, recipe.zero, batches.steps)
    watched = {
        name: held_out_batches(tokenizer, path, recipe.batch)
        for name, path in recipe.held_out.items()
        if recipe.measure_every and (not recipe.measure_sets or name in recipe.measure_sets)
    }

    def watch(done: int) -> dict[str, float]:
        if not watched or (done % recipe.measure_every and done != batches.steps):
            return {}
        seen = {name: look(engine, micros) for name, micros in watched.items()}
        return {f"held_out/{name}/{what}": value for name, told in seen.items() for what, value in told.items()}

    metrics = fit(
        engine, batches, partial(counts, mean_over=recipe.mean_over),
        partial(terms, mean_over=recipe.mean_over, safety_weight=recipe.safety_weight), batches.steps,
        work=work_dir(out), label=out.name, save_every=recipe.save_every, measure=watch, places=places,
    )  # fmt: skip

    judge = adapted(Scorer(read_config(start)), recipe.lora, recipe.seed)
    copy_weights(engine, judge)
    reports = {name: measure(judge, *rows) for name, rows in held.items()}
    if dist.is_main():
        write_json(work_dir(out) / "report.json", document(out.name, reports))
    metrics |= {f"held_out/{name}": by_rating(report) for name, report in reports.items()}
    if watched and dist.is_main():
        logged = read_metrics(work_dir(out) / "metrics.jsonl")
        metrics["held_out_curve"] = curve(logged, recipe.batch.rows / len(encoded.rows))
    export(
        engine, "scorer", read_config(start), tokenizer.path, out,
        stage="reward", recipe=to_plain(recipe), seed=recipe.seed,
        parents=[start], inputs=[Path(p) for p in (*recipe.data.main, *recipe.data.other, *recipe.held_out.values())],
        metrics=metrics | {"rows": encoded.counts | {"shared_prompts": shared}}
        | {"held_out_rows": {name: rows.counts for name, (_, rows) in held.items()}},
        lora=recipe.lora,
    )  # fmt: skip


def _drawn(recipe: Recipe) -> tuple[list[str], list[Preference | Ranking], int]:
    """The rows to train on: their places and records, and how many were left out for a held-out prompt."""
    from align.data.compared import read_compared
    from align.data.preference import leave_out, mix

    held = [one for _, one in read_compared(recipe.held_out.values())]
    files = [read_compared(paths) for paths in (recipe.data.main, recipe.data.other)]
    main, other = (leave_out(rows, held) for rows in files)
    if not main:
        raise DataError(f"data.main: the prompts of all its {len(files[0])} rows stand in a held-out set too")
    drawn = mix(main, other, recipe.data.main_share, recipe.seed)
    return [place for place, _ in drawn], [one for _, one in drawn], sum(map(len, files)) - len(main) - len(other)


def _held_out(name: str, path: str, tokenizer: Tokenizer, length: int) -> tuple[list[Preference], PairRows]:
    """A held-out set and its rows, read before anything is trained."""
    from align.data.preference import pair_rows, read_pairs

    preferences = read_pairs([path])
    rows = pair_rows(tokenizer, preferences, margins="none", max_len=length, overlong="cut")
    if not rows.pairs:
        raise DataError(f"held_out.{name}: {path}: found no pairs of at most {length} tokens; expected at least one")
    return preferences, rows


def _begin(folder: Path, seed: int) -> Scorer:
    """A reward model as it is, or a policy's body under a new head."""
    from align.model.config import read_hf
    from align.model.heads import scorer_from_policy
    from align.model.weights import load_policy, load_scorer

    if read_hf(folder).get("architectures") == ["LlamaForSequenceClassification"]:
        return load_scorer(folder)
    return scorer_from_policy(load_policy(folder), seed)


def measure(scorer: Scorer, preferences: Sequence[Preference], rows: PairRows) -> dict[str, Any]:
    """The report of a reward model on a set of pairs (align/measures/reward.py); each answer is read once."""
    from align.measures.reward import reward_report
    from align.rollout.scorer import score_rows

    answers = [row for pair in rows.pairs for row in (pair.chosen, pair.rejected)]
    scores = score_rows(scorer, [row.tokens.tolist() for row in answers])
    sizes = [int(row.mask.sum()) for row in answers]
    return {"rows": rows.counts} | reward_report(
        [preferences[index] for index in rows.kept],
        list(zip(scores[::2], scores[1::2], strict=True)),
        list(zip(sizes[::2], sizes[1::2], strict=True)),
    )


def counts(micro: PairBatch, mean_over: MeanOver) -> dict[str, int]:
    """Counted values of a micro-batch by term, for :func:`align.engine.step.update`."""
    pairs = len(micro.margin)
    counted = pairs if mean_over == "pairs" else len(micro.rows)
    return {"loss": counted, "accuracy": pairs, "safety": int((micro.safe >= 0).sum())}


def terms(engine: Engine, micro: PairBatch, mean_over: MeanOver, safety_weight: float) -> dict[str, Term]:
    """Ranking loss of P pairs (or, over prompts, of their elements), auxiliary safety loss of 2 P answers, accuracy.

    Args:
        engine: wraps a scorer.
        micro: P pairs.
        mean_over: whether a pair or a prompt weighs the same everywhere.
        safety_weight: of the safety loss beside the ranking loss.
    """
    from align.engine.step import Term
    from align.losses import ranking_loss, safety_loss

    batch = micro.batch
    scores = engine(batch.tokens, batch.positions, batch.segments, at=micro.ends, stems=batch.stems)
    chosen, rejected = scores.chunk(2)
    losses, rows = ranking_loss(chosen, rejected, micro.margin), micro.rows[micro.prompt]
    if mean_over == "prompts":
        losses, rows = losses.new_zeros(len(micro.rows)).index_add(0, micro.prompt, losses * micro.share), micro.rows
    labelled = micro.safe >= 0
    return {
        "loss": Term(losses, None, rows=rows),
        "safety": Term(safety_loss(scores, micro.safe == 1), labelled, weight=safety_weight),
        "accuracy": Term((chosen > rejected).float().detach(), None, weight=0.0),
    }
