"""The end of every training stage: whole weights gathered, written as an artifact, work thrown away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from align.engine.zero import Engine
    from align.model.config import LlamaConfig, LoraConfig


def export(
    engine: Engine,
    head: Literal["policy", "scorer"],
    config: LlamaConfig,
    tokenizer: Path,
    out: Path,
    *,
    stage: str,
    recipe: dict[str, Any],
    seed: int,
    parents: Sequence[Path] = (),
    inputs: Sequence[Path] = (),
    metrics: Mapping[str, Any],
    lora: LoraConfig | None = None,
    into: str = "",
    beside: Mapping[str, Path] | None = None,
) -> None:
    """Publish the engine's model at ``out`` as a Hugging Face folder with a manifest. Every rank calls it.

    Args:
        engine: holds the weights, partitioned or not.
        head: a policy (LlamaForCausalLM) or a scorer (LlamaForSequenceClassification).
        config: of the model.
        tokenizer: the sentencepiece model that belongs to it.
        out: the artifact's folder.
        stage: kind of stage.
        recipe: as plain values.
        seed: of the stage.
        parents: artifacts it was made from.
        inputs: files it was made from.
        metrics: what the stage measured; the manifest tells beside it what the steps ran in (``dtype``).
        lora: the adapters that were trained; they are merged into the first parent's weights.
        into: folder within the artifact where the model goes; the artifact's own place where empty.
        beside: folders whose files go into the artifact too, by the name of their folder there.
    """
    import shutil

    from align.artifacts import building, publish, work_dir
    from align.engine import dist, phase
    from align.engine.zero_state import gathered
    from align.model.lora import merged
    from align.model.weights import read_weight, save_policy, save_scorer

    phase.enter("publishing the artifact")
    # elsewhere than on the main rank the iterator only takes part in the gathering
    tensors = gathered(engine)
    if not dist.is_main():
        for _ in tensors:
            pass
        dist.barrier()
        return
    if lora is not None:
        tensors = merged(tensors, lora, read_weight(parents[0]))
    work = work_dir(out)
    with building(out) as folder:
        (save_policy if head == "policy" else save_scorer)(tensors, config, folder / into)
        shutil.copyfile(tokenizer, folder / into / "tokenizer.model")
        for name, source in (beside or {}).items():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        for name in ("metrics.jsonl", "timings.jsonl", "report.json"):
            if (work / name).exists():
                shutil.copyfile(work / name, folder / name)
        publish(
            folder, out, stage=stage, name=out.name, recipe=recipe, seed=seed,
            parents=parents, inputs=inputs, metrics={"dtype": engine.dtype, **metrics},
        )  # fmt: skip
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    dist.barrier()
