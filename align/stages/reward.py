"""Preferences -> a reward model by the margin binary ranking loss (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.data.batches import BatchConfig, check_length, pair_batches
from align.engine.launch import LaunchConfig
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig
from align.errors import DataError
from align.records import PairBatch, Preference

if TYPE_CHECKING:
    from align.data.preference import PairRows
    from align.data.tokenizer import Tokenizer
    from align.engine.step import Term
    from align.engine.zero import Engine
    from align.model.heads import Scorer


@config
class MixConfig:
    """All pairs of ``main``, and pairs drawn from ``other`` until ``main`` is ``main_share`` of the whole."""

    main: list[str]
    other: list[str] = pydantic.Field(default_factory=list)
    main_share: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0


@config
class Recipe:
    """A reward model, helpfulness or safety by its data."""

    stage: Literal["reward"]
    seed: int = 0
    policy: str  # the chat artifact to start from: its language head gives way to a scalar head; or a reward model
    data: MixConfig
    held_out: dict[str, str]  # name of a set -> file; accuracy is told for each
    margins: Literal["none", "small", "large"]
    safety_weight: Annotated[float, pydantic.Field(ge=0)] = 0.0  # auxiliary safety classification
    overlong: Literal["error", "cut", "skip"] = "error"
    batch: BatchConfig
    optim: OptimConfig
    zero: ZeroConfig
    launch: LaunchConfig = LaunchConfig()
    save_every: int = 200


def run(recipe: Recipe, out: Path) -> None:
    """Train the reward model, measure it on the held-out sets, publish it at ``out``."""
    from align.artifacts import work_dir, write_json
    from align.data.preference import mix, pair_rows, read_pairs
    from align.data.tokenizer import Tokenizer
    from align.engine import dist
    from align.engine.export import export
    from align.engine.fit import fit
    from align.engine.zero import wrap
    from align.engine.zero_state import copy_weights
    from align.measures.reward import by_rating, document
    from align.model.config import read_config
    from align.model.heads import Scorer

    dist.setup()
    start = Path(recipe.policy)
    check_length(recipe.batch, read_config(start).max_seq_len)
    tokenizer = Tokenizer(start / "tokenizer.model")
    main, other = read_pairs(recipe.data.main), read_pairs(recipe.data.other)
    drawn = mix(main, other, recipe.data.main_share, recipe.seed)
    encoded = pair_rows(tokenizer, drawn, margins=recipe.margins, max_len=recipe.batch.length, overlong=recipe.overlong)
    held = {name: _held_out(name, path, tokenizer, recipe.batch.length) for name, path in recipe.held_out.items()}

    batches = pair_batches(encoded.pairs, recipe.batch, seed=recipe.seed, rank=dist.rank(), world=dist.world_size())
    engine = wrap(_begin(start, recipe.seed), recipe.optim, recipe.zero, batches.steps)
    metrics = fit(
        engine, batches, _counts, lambda e, b: _terms(e, b, recipe.safety_weight), batches.steps,
        work=work_dir(out), label=out.name, save_every=recipe.save_every,
    )  # fmt: skip

    judge = Scorer(read_config(start))
    copy_weights(engine, judge)
    reports = {name: measure(judge, *rows) for name, rows in held.items()}
    if dist.is_main():
        write_json(work_dir(out) / "report.json", document(out.name, reports))
    metrics |= {f"held_out/{name}": by_rating(report) for name, report in reports.items()}
    export(
        engine, "scorer", read_config(start), tokenizer.path, out,
        stage="reward", recipe=to_plain(recipe), seed=recipe.seed,
        parents=[start], inputs=[Path(p) for p in (*recipe.data.main, *recipe.data.other, *recipe.held_out.values())],
        metrics=metrics | {"rows": encoded.counts},
    )  # fmt: skip


def _begin(folder: Path, seed: int) -> Scorer:
    """A reward model as it is, or a policy's body under a new head."""
    from align.model.config import read_hf
    from align.model.heads import scorer_from_policy
    from align.model.weights import load_policy, load_scorer

    if read_hf(folder).get("architectures") == ["LlamaForSequenceClassification"]:
        return load_scorer(folder)
    return scorer_from_policy(load_policy(folder), seed)


def _held_out(name: str, path: str, tokenizer: Tokenizer, length: int) -> tuple[list[Preference], PairRows]:
    """A held-out set and its rows, read before anything is trained."""
    from align.data.preference import pair_rows, read_pairs

    preferences = read_pairs([path])
    rows = pair_rows(tokenizer, preferences, margins="none", max_len=length, overlong="cut")
    if not rows.pairs:
        raise DataError(f"held_out.{name}: {path}: found no pairs of at most {length} tokens; expected at least one")
    return preferences, rows


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


def _counts(micro: PairBatch) -> dict[str, int]:
    pairs = len(micro.margin)
    return {"loss": pairs, "accuracy": pairs, "safety": int((micro.safe >= 0).sum())}


def _terms(engine: Engine, micro: PairBatch, safety_weight: float) -> dict[str, Term]:
    from align.engine.step import Term
    from align.losses import ranking_loss, safety_loss

    batch = micro.batch
    scores = engine(batch.tokens, batch.positions, batch.segments, at=micro.ends, stems=batch.stems)
    chosen, rejected = scores.chunk(2)
    labelled = micro.safe >= 0
    return {
        "loss": Term(ranking_loss(chosen, rejected, micro.margin), None),
        "safety": Term(safety_loss(scores, micro.safe == 1), labelled, weight=safety_weight),
        "accuracy": Term((chosen > rejected).float().detach(), None, weight=0.0),
    }
