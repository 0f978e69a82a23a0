"""Preferences -> a reward model by the margin binary ranking loss (paper section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.data.batches import BatchConfig, check_length, pair_batches
from align.engine.launch import LaunchConfig
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig
from align.model.config import LoraConfig
from align.records import RATINGS, PairBatch

if TYPE_CHECKING:
    from align.data.preference import PairRow
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
    lora: LoraConfig | None = None  # adapters on a frozen body, merged in the artifact; null: every weight trains
    launch: LaunchConfig = LaunchConfig()
    save_every: int = 200


def run(recipe: Recipe, out: Path) -> None:
    """Train the reward model, measure it on the held-out sets, publish it at ``out``."""
    from align.artifacts import work_dir
    from align.data.preference import mix, pair_rows, read_pairs
    from align.data.tokenizer import Tokenizer
    from align.engine import dist
    from align.engine.export import export
    from align.engine.fit import fit
    from align.engine.zero import wrap
    from align.engine.zero_state import copy_weights
    from align.model.config import read_config
    from align.model.heads import Scorer
    from align.model.lora import adapted

    dist.setup()
    start = Path(recipe.policy)
    check_length(recipe.batch, read_config(start).max_seq_len)
    tokenizer = Tokenizer(start / "tokenizer.model")
    main, other = read_pairs(recipe.data.main), read_pairs(recipe.data.other)
    drawn = mix(main, other, recipe.data.main_share, recipe.seed)
    encoded = pair_rows(tokenizer, drawn, margins=recipe.margins, max_len=recipe.batch.length, overlong=recipe.overlong)

    batches = pair_batches(encoded.pairs, recipe.batch, seed=recipe.seed, rank=dist.rank(), world=dist.world_size())
    model = adapted(_begin(start, recipe.seed), recipe.lora, recipe.seed)
    engine = wrap(model, recipe.optim, recipe.zero, batches.steps)
    metrics = fit(
        engine, batches, _counts, lambda e, b: _terms(e, b, recipe.safety_weight), batches.steps,
        work=work_dir(out), label=out.name, save_every=recipe.save_every,
    )  # fmt: skip

    judge = adapted(Scorer(read_config(start)), recipe.lora, recipe.seed)
    copy_weights(engine, judge)
    for name, path in recipe.held_out.items():
        held = pair_rows(tokenizer, read_pairs([path]), margins="none", max_len=recipe.batch.length, overlong="cut")
        metrics[f"held_out/{name}"] = measure(judge, held.pairs)
    export(
        engine, "scorer", read_config(start), tokenizer.path, out,
        stage="reward", recipe=to_plain(recipe), seed=recipe.seed,
        parents=[start], inputs=[Path(p) for p in (*recipe.data.main, *recipe.data.other, *recipe.held_out.values())],
        metrics=metrics | {"rows": encoded.counts}, lora=recipe.lora,
    )  # fmt: skip


def _begin(folder: Path, seed: int) -> Scorer:
    """A reward model as it is, or a policy's body under a new head."""
    from align.model.config import read_hf
    from align.model.heads import scorer_from_policy
    from align.model.weights import load_policy, load_scorer

    if read_hf(folder).get("architectures") == ["LlamaForSequenceClassification"]:
        return load_scorer(folder)
    return scorer_from_policy(load_policy(folder), seed)


def measure(scorer: Scorer, pairs: list[PairRow]) -> dict[str, Any]:
    """Share of pairs whose chosen answer scores higher, by rating and together."""
    from align.rollout.scorer import score_rows
    from align.stats import accuracy_by

    scores = score_rows(scorer, [row.tokens.tolist() for pair in pairs for row in (pair.chosen, pair.rejected)])
    gaps = [chosen - rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]
    return accuracy_by(gaps, [RATINGS[pair.rating] for pair in pairs], RATINGS)


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
