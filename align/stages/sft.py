"""Dialogues -> a policy: cross-entropy on the answers, zero on the prompts (paper section 3.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

from align.config import config, to_plain
from align.data.batches import BatchConfig, check_length, packed_batches
from align.engine.launch import LaunchConfig
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig
from align.errors import DataError, nearest
from align.model.config import LoraConfig

if TYPE_CHECKING:
    from align.records import Dialog, Row


@config
class DialogSource:
    """A file of dialogues and which of its answers are trained."""

    path: str
    train: Literal["all", "last"] = "all"  # last: only the final answer (Ghost Attention, section 3.3)
    take: int | None = None  # the first so many; all where null
    sources: list[str] = pydantic.Field(default_factory=list)  # dialogues of these sources alone; all where empty
    exclude_sources: list[str] = pydantic.Field(default_factory=list)  # dialogues of these sources are left out
    # of what is left, by content: a larger share holds a smaller
    share: Annotated[float, pydantic.Field(ge=0, le=1)] = 1.0


@config
class Recipe:
    """Supervised fine-tuning of a policy."""

    stage: Literal["sft"]
    seed: int = 0
    policy: str  # the artifact to start from
    data: list[DialogSource]
    overlong: Literal["error", "cut", "skip"] = "error"  # a dialogue longer than batch.length
    batch: BatchConfig
    optim: OptimConfig
    zero: ZeroConfig
    lora: LoraConfig | None = None  # adapters on a frozen base, merged in the artifact; null: every weight trains
    launch: LaunchConfig = LaunchConfig()
    save_every: int = 200


def run(recipe: Recipe, out: Path) -> None:
    """Fine-tune ``recipe.policy`` and publish the new policy at ``out``."""
    from align.artifacts import work_dir
    from align.data.sft import sft_rows
    from align.data.tokenizer import Tokenizer
    from align.engine import dist
    from align.engine.export import export
    from align.engine.fit import fit
    from align.engine.objectives import lm_counts, lm_terms
    from align.engine.zero import wrap
    from align.model.config import read_config
    from align.model.lora import adapted
    from align.model.weights import load_policy

    dist.setup()
    start = Path(recipe.policy)
    check_length(recipe.batch, read_config(start).max_seq_len)
    tokenizer = Tokenizer(start / "tokenizer.model")
    rows: list[Row] = []
    counts: dict[str, dict[str, int]] = {}
    for source in recipe.data:
        dialogs = read(source)
        encoded = sft_rows(
            tokenizer, dialogs, train=source.train, max_len=recipe.batch.length, overlong=recipe.overlong
        )
        rows += encoded.rows
        name, again = Path(source.path).name, sum(other.path == source.path for other in recipe.data[: len(counts)])
        counts[f"{name} ({again + 1})" if again else name] = encoded.counts

    batches = packed_batches(rows, recipe.batch, seed=recipe.seed, rank=dist.rank(), world=dist.world_size())
    model = adapted(load_policy(start), recipe.lora, recipe.seed)
    engine = wrap(model, recipe.optim, recipe.zero, batches.steps)
    metrics = fit(
        engine, batches, lm_counts, lm_terms, batches.steps,
        work=work_dir(out), label=out.name, save_every=recipe.save_every,
    )  # fmt: skip
    export(
        engine, "policy", read_config(start), tokenizer.path, out,
        stage="sft", recipe=to_plain(recipe), seed=recipe.seed,
        parents=[start], inputs=[Path(path) for path in dict.fromkeys(source.path for source in recipe.data)],
        metrics=metrics | {"rows": counts},
        lora=recipe.lora,
    )  # fmt: skip


def read(source: DialogSource) -> list[Dialog]:
    """A file's dialogues: of the sources asked for, less those left out, and of these the share.

    Raises:
        DataError: no dialogue is of a source that is named, so its name must be wrong.
    """
    from align.data.schema import read_dialogs
    from align.data.sft import share_of

    dialogs = list(read_dialogs(source.path))
    known = {dialog.source for dialog in dialogs}
    for key, names in (("sources", source.sources), ("exclude_sources", source.exclude_sources)):
        for name in names:
            if name not in known:
                raise DataError(f"{source.path}: {key}: found no dialogue of {name!r}{nearest(name, known)}")
    wanted = set(source.sources or known) - set(source.exclude_sources)
    return share_of([dialog for dialog in dialogs if dialog.source in wanted], source.share)[: source.take]
