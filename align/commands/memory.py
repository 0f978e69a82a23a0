"""The memory that a stage will need, worked out from its recipe and its models' sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.model.config import Dtype, LlamaConfig, LoraConfig, read_config
from align.model.memory import Memory, sampling, scoring, training
from align.runner import Task

GIB = 2**30
TRAINED = {"pretrain": True, "sft": True, "reward": False}  # True: with a language head


def estimate(task: Task, sizes: dict[str, LlamaConfig]) -> dict[str, float] | None:
    """GiB by part, of one of the stage's processes.

    Args:
        task: the stage.
        sizes: of models that are not on disk yet, by folder; that of the model made by this stage is added.

    Returns:
        None where a stage holds no model, or a model's size cannot be known yet.
    """
    recipe = task.recipe

    def size(folder: str) -> LlamaConfig | None:
        if folder in sizes:
            return sizes[folder]
        return read_config(Path(folder)) if (Path(folder) / "config.json").is_file() else None

    model = recipe.model if task.stage == "pretrain" else size(_start(task) or "")
    if model is None:
        return None
    if task.stage in (*TRAINED, "ppo"):
        sizes[str(task.out)] = model
    parts = _PARTS[task.stage](recipe, model, size)
    return {name: part.device / GIB for name, part in parts.items()}


def _start(task: Task) -> str | None:
    """The folder whose model decides the stage's memory."""
    recipe = task.recipe
    if task.stage == "rejection":
        return str(recipe.policies[-1]) if recipe.policies else None
    if task.stage == "evaluate":
        return str(recipe.reference)
    if task.stage == "attention":
        return str(next(iter(recipe.policies.values())))
    if task.stage == "temperature":
        return str(next(iter(recipe.policies.values())))
    return getattr(recipe, "policy", None)


Size = Callable[[str], LlamaConfig | None]


def _fit(head: bool) -> Callable[[Any, LlamaConfig, Size], dict[str, Memory]]:
    def parts(recipe: Any, model: LlamaConfig, size: Size) -> dict[str, Memory]:
        rows = recipe.batch.micro_rows * (1 if head else 2)  # a pair is two rows
        return {"training": _trained(recipe, model, rows, recipe.batch.length, head, getattr(recipe, "lora", None))}

    return parts


def _ppo(recipe: Any, model: LlamaConfig, size: Size) -> dict[str, Memory]:
    dtype, length = _dtype(recipe), min(model.max_seq_len, recipe.micro_tokens)
    rows = max(1, recipe.micro_tokens // length)
    judges = {name: size(folder) or model for name, folder in _judges(recipe).items()}
    critic = judges.get(recipe.critic, model)
    if recipe.critic_lora:  # the reward model is the base of the critic's adapters
        judges.pop(recipe.critic, None)
    frozen = {} if recipe.lora else {"reference": scoring(model, dtype=dtype, head=True)}
    return {
        "policy": _trained(recipe, model, rows, length, True, recipe.lora, whole_logits=True),
        "critic": _trained(recipe, critic, rows, length, False, recipe.critic_lora),
        **frozen,
        **{name: scoring(judge, dtype=dtype, head=False) for name, judge in judges.items()},
        "sampler": sampling(model, dtype=dtype, slots=recipe.slots, length=model.max_seq_len),
    }


def _sampled(recipe: Any, model: LlamaConfig, size: Size) -> dict[str, Memory]:
    holder = getattr(recipe, "pool", recipe)
    dtype: Dtype = getattr(holder, "dtype", "fp32")
    length = getattr(holder, "max_len", None) or model.max_seq_len
    judges = {name: size(folder) or model for name, folder in _judges(recipe).items()}
    return {
        "sampler": sampling(model, dtype=dtype, slots=holder.slots, length=length),
        **{name: scoring(judge, dtype=dtype, head=False) for name, judge in judges.items()},
    }


def _trained(
    recipe: Any,
    model: LlamaConfig,
    rows: int,
    length: int,
    head: bool,
    lora: LoraConfig | None,
    whole_logits: bool = False,
) -> Memory:
    zero = recipe.zero
    return training(
        model,
        stage=zero.stage,
        dtype=_dtype(recipe),
        rows=rows,
        length=length,
        processes=recipe.launch.processes,
        head=head,
        offload_optimizer=zero.offload_optimizer,
        offload_params=zero.offload_params,
        lora=lora,
        checkpointing=zero.checkpointing,
        whole_logits=whole_logits,
    )


def _dtype(recipe: Any) -> Dtype:
    """Of weights and activations; the larger of the two where the machine is to choose."""
    dtype: Dtype = "fp32" if recipe.zero.dtype == "auto" else recipe.zero.dtype
    return dtype


def _judges(recipe: Any) -> dict[str, str]:
    holder = getattr(recipe, "rewards", recipe)
    named = {name: getattr(holder, name, None) for name in ("helpful", "safety")}
    return {name: folder for name, folder in named.items() if folder is not None}


def _looking(recipe: Any, model: LlamaConfig, size: Size) -> dict[str, Memory]:
    return {"policy": scoring(model, dtype="fp32", head=False)}  # one after another


_PARTS: dict[str, Callable[[Any, LlamaConfig, Size], dict[str, Memory]]] = {
    **{stage: _fit(head) for stage, head in TRAINED.items()},
    "ppo": _ppo,
    "rejection": _sampled,
    "ghost": _sampled,
    "distill": _sampled,
    "evaluate": _sampled,
    "attention": _looking,
    "temperature": _sampled,
}
