"""Hugging Face model folders written: configs and sharded safetensors, from a model or a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from align.errors import WeightsError
from align.files import sync, write_json
from align.model.config import Architecture, Dtype, LlamaConfig, to_hf
from align.model.heads import Scorer
from align.model.llama import Llama, on_meta
from align.model.strict import DTYPES, check_complete, check_name, check_shape, places

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000

# Meta's dialogue format for transformers and vLLM; inside this library align.data.template makes the ids.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must be: optional system, then user, assistant, user, ...') }}{% endif %}"
    "{% if loop.index0 == 0 and system is defined %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def save_policy(
    weights: Llama | Iterable[tuple[str, Tensor]],
    config: LlamaConfig,
    folder: Path | str,
    *,
    dtype: Dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a language model as a Hugging Face folder; ``tokenizer.model`` is the caller's to add.

    Args:
        weights: a model, or (name, tensor) one at a time, as gathered from a partitioned one.
        config: its sizes.
        folder: made if need be; weights already in it are replaced.
        dtype: cast to; None keeps each tensor's.
        shard_bytes: no file holds more bytes of tensors, unless one tensor does.

    Raises:
        WeightsError: ``weights`` lacks a tensor, has one over, or in another shape than ``config`` says.
    """
    named = weights.named_parameters() if isinstance(weights, Llama) else weights
    _save(named, config, Path(folder), "LlamaForCausalLM", dtype, shard_bytes)


def save_scorer(
    weights: Scorer | Iterable[tuple[str, Tensor]],
    config: LlamaConfig,
    folder: Path | str,
    *,
    dtype: Dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a reward model as a folder that LlamaForSequenceClassification loads; see :func:`save_policy`."""
    named = weights.named_parameters() if isinstance(weights, Scorer) else weights
    _save(named, config, Path(folder), "LlamaForSequenceClassification", dtype, shard_bytes)


def _save(
    named: Iterable[tuple[str, Tensor]],
    config: LlamaConfig,
    folder: Path,
    architecture: Architecture,
    dtype: Dtype | None,
    shard_bytes: int,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with on_meta():
        expected = places(Llama(config) if architecture == "LlamaForCausalLM" else Scorer(config))
    files: list[Path] = []
    weight_map: dict[str, int] = {}
    stored: set[torch.dtype] = set()
    total = 0
    for shard in _shards(_fitting(named, expected, folder), shard_bytes, DTYPES[dtype] if dtype else None):
        for name, tensor in shard.items():
            weight_map[name] = len(files)
            stored.add(tensor.dtype)
            total += tensor.nbytes
        # passing names, since a shard's final one says how many there are
        files.append(folder / f".shard-{len(files)}.tmp")
        save_file(shard, files[-1], metadata={"format": "pt"})
        files[-1].chmod(0o644)  # it leaves files that only their owner can read
        sync(files[-1])
    check_complete(weight_map, expected, str(folder))

    for stale in (*folder.glob("model*.safetensors"), folder / INDEX):
        stale.unlink(missing_ok=True)
    count = len(files)
    final = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, place in zip(files, final, strict=True):
        file.replace(folder / place)
    if count > 1:
        index = {name: final[shard] for name, shard in sorted(weight_map.items())}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})
    widest: Dtype = next(name for name, kind in DTYPES.items() if kind in stored)
    _write_configs(config, folder, architecture, widest)


def _fitting(
    named: Iterable[tuple[str, Tensor]], expected: Mapping[str, Tensor], folder: Path
) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, each checked to have its one place in the model."""
    seen: set[str] = set()
    for name, tensor in named:
        check_name(name, expected, str(folder))
        check_shape(name, tensor.shape, expected[name].shape, str(folder))
        if name in seen:
            raise WeightsError(f"{folder}: {name}: given twice")
        seen.add(name)
        yield name, tensor


def _shards(
    named: Iterable[tuple[str, Tensor]], shard_bytes: int, dtype: torch.dtype | None
) -> Iterator[dict[str, Tensor]]:
    """Tensors on the CPU in groups of at most ``shard_bytes``, at least one tensor each."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in named:
        kept = tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        if shard and size + kept.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = kept
        size += kept.nbytes
    yield shard


def _write_configs(config: LlamaConfig, folder: Path, architecture: Architecture, dtype: Dtype) -> None:
    """The JSON files that transformers and vLLM read beside the weights and ``tokenizer.model``."""
    write_json(folder / "config.json", to_hf(config, architecture, dtype=dtype))
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": None,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,  # otherwise "[INST]" after <s> becomes 29961, not the 518 that Llama 2 was trained with
        "model_max_length": config.max_seq_len,
        "chat_template": CHAT_TEMPLATE,
    }
    if architecture == "LlamaForSequenceClassification":
        tokenizer["pad_token"] = "<unk>"  # the pad_token_id of config.json
    write_json(folder / "tokenizer_config.json", tokenizer)
    if architecture == "LlamaForCausalLM":
        # the sampling defaults of the released chat models
        sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": config.max_seq_len}
        write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, **sampling})
