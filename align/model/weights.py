"""Checkpoints in and out: everything that reads or writes weights is offered here.

This file reads Hugging Face folders: safetensors, one file or shards with an index, tensor by tensor, nothing
missing or over. :mod:`align.model.saving` writes them; :mod:`align.model.meta` reads Meta's and llama2.c's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from align.errors import ArtifactError, WeightsError, nearest
from align.model.config import Architecture, Dtype, from_hf, read_hf
from align.model.heads import Scorer
from align.model.llama import Llama
from align.model.meta import load_llama2c, load_meta
from align.model.saving import INDEX, SINGLE, save_policy, save_scorer
from align.model.strict import M, allocate, check_complete, check_name, check_shape, places

__all__ = ["load_llama2c", "load_meta", "load_policy", "load_scorer", "read_weight", "save_policy", "save_scorer"]


def load_policy(folder: Path | str, dtype: Dtype = "fp32", device: str = "cpu") -> Llama:
    """A language model from a Hugging Face folder (LlamaForCausalLM).

    Memory at its peak: the model and one shard.

    Raises:
        ArtifactError: no such folder, or not a LLaMA that this library runs.
        WeightsError: a tensor is missing, left over or of another shape, or a file is broken.
    """
    return _load(Llama, Path(folder), "LlamaForCausalLM", dtype, device)


def load_scorer(folder: Path | str, dtype: Dtype = "fp32", device: str = "cpu") -> Scorer:
    """A reward model from a Hugging Face folder (LlamaForSequenceClassification with one label).

    Raises:
        ArtifactError, WeightsError: as :func:`load_policy`.
    """
    return _load(Scorer, Path(folder), "LlamaForSequenceClassification", dtype, device)


def read_weight(folder: Path | str) -> Callable[[str], Tensor]:
    """A function that reads one weight of a Hugging Face folder by its name, fp32, leaving the others on disk.

    It raises WeightsError where the folder has no such weight.
    """
    files: dict[str, Path] = {}
    for file in _files(Path(folder)):
        with safe_open(file, framework="pt", device="cpu") as shard:
            files |= dict.fromkeys(shard.keys(), file)

    def read(name: str) -> Tensor:
        if name not in files:
            raise WeightsError(f"{folder}: no weight {name}{nearest(name, files)}")
        with safe_open(files[name], framework="pt", device="cpu") as shard:
            tensor: Tensor = shard.get_tensor(name)
        return tensor.float()

    return read


def _load(make: type[M], folder: Path, architecture: Architecture, dtype: Dtype, device: str) -> M:
    if (folder / "params.json").is_file() and not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: a checkpoint as Meta ships it; read it with load_meta and save_policy")
    values = read_hf(folder)
    where = str(folder / "config.json")
    found = (values.get("architectures") or [architecture])[0]
    if found != architecture:
        raise ArtifactError(f"{where}: architectures: expected {architecture}, found {found}")
    config = from_hf(values, where)
    module = allocate(make, config, dtype, device)
    expected = places(module)
    seen: set[str] = set()
    for file, name, tensor in _tensors(folder):
        if name.endswith("rotary_emb.inv_freq"):
            continue  # old exports carry this table; it follows from the sizes
        if name == "lm_head.weight" and config.tie_embeddings and architecture == "LlamaForCausalLM":
            _check_tied(tensor, folder, file)
            continue
        check_name(name, expected, str(file))
        check_shape(name, tensor.shape, expected[name].shape, str(file))
        if name in seen:
            raise WeightsError(f"{file}: {name}: also in another shard")
        with torch.no_grad():
            expected[name].copy_(tensor)
        seen.add(name)
    check_complete(seen, expected, str(folder))
    return module


def _tensors(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """(file, name, tensor) of a folder; a tensor is memory-mapped, so copy from it at once."""
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt", device="cpu") as shard:
                for name in shard.keys():  # noqa: SIM118 - not a mapping
                    yield file, name, shard.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: not a readable safetensors file: {error}") from error


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise WeightsError(f"{folder}: no {SINGLE} and no {INDEX}; weights are read from safetensors only")
        return [folder / SINGLE]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index}: expected a JSON object with a weight_map of names to files") from error
    for name in names:
        if Path(name).name != name:
            raise WeightsError(f"{index}: {name!r}: a shard must lie in the same folder")
        if not (folder / name).is_file():
            raise WeightsError(f"{index}: shard {name} is missing")
    return [folder / name for name in names]


def _check_tied(head: Tensor, folder: Path, file: Path) -> None:
    for _, name, tensor in _tensors(folder):
        if name == "model.embed_tokens.weight" and not torch.equal(tensor, head):
            raise WeightsError(f"{file}: lm_head.weight: differs from the embedding, yet config.json ties them")
