"""Text -> tokenizer and a tiny base model, so that the whole road can be walked without anyone's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from align.config import config, to_plain
from align.data.batches import BatchConfig, check_length, packed_batches
from align.engine.launch import LaunchConfig
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig
from align.model.config import LlamaConfig


@config
class TextConfig:
    """Where the text is and how it falls into documents."""

    paths: list[str]
    documents: Literal["line", "paragraph"] = "line"
    max_documents: int | None = None


@config
class Recipe:
    """A base model from plain text."""

    stage: Literal["pretrain"]
    seed: int = 0
    text: TextConfig
    vocab_size: Annotated[int, pydantic.Field(ge=300)]  # 256 byte pieces and 3 controls are among them
    model: LlamaConfig
    init_std: Annotated[float, pydantic.Field(gt=0)] = 0.02  # of every matrix at the start
    batch: BatchConfig
    optim: OptimConfig
    zero: ZeroConfig
    launch: LaunchConfig = LaunchConfig()
    save_every: int = 200


def run(recipe: Recipe, out: Path) -> None:
    """Train tokenizer and model; publish the base artifact at ``out``."""
    from align.artifacts import work_dir
    from align.data.text import read_text, text_rows
    from align.data.tokenizer import Tokenizer, train_tokenizer
    from align.engine import dist
    from align.engine.export import export
    from align.engine.fit import fit
    from align.engine.objectives import lm_counts, lm_terms
    from align.engine.zero import wrap
    from align.model.llama import Llama, init_weights

    check_length(recipe.batch, recipe.model.max_seq_len)
    dist.setup()
    work = work_dir(out)
    paths = [Path(path) for path in recipe.text.paths]
    texts = list(read_text(paths, recipe.text.documents, recipe.text.max_documents))
    spm = work / "tokenizer.model"
    if dist.is_main() and not spm.exists():
        train_tokenizer(texts, recipe.vocab_size, spm)
    dist.barrier()
    tokenizer = Tokenizer(spm)

    rows = text_rows(tokenizer, texts, recipe.batch.length)
    batches = packed_batches(rows, recipe.batch, seed=recipe.seed, rank=dist.rank(), world=dist.world_size())
    model = Llama(recipe.model)
    init_weights(model, recipe.seed, recipe.init_std)
    engine = wrap(model, recipe.optim, recipe.zero, batches.steps)
    metrics = fit(
        engine,
        batches,
        lm_counts,
        lm_terms,
        batches.steps,
        work=work,
        label=out.name,
        save_every=recipe.save_every,
    )
    export(
        engine,
        "policy",
        recipe.model,
        spm,
        out,
        stage="pretrain",
        recipe=to_plain(recipe),
        seed=recipe.seed,
        inputs=paths,
        metrics=metrics,
    )
