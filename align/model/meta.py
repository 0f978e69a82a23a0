"""Checkpoints that are not Hugging Face's: Meta's ``consolidated.NN.pth`` and llama2.c's ``.bin``.

Both order the rows of q and k so that rotary pairs are neighbours (2i, 2i + 1); with us, as in Hugging Face's
files, row i is paired with i + E/2.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.errors import ArtifactError, WeightsError, nearest
from align.model.config import Dtype, LlamaConfig, ffn_width, warn_eps
from align.model.llama import Llama
from align.model.strict import allocate, check_complete, check_name, check_shape, places

# Meta's name -> ours and the dimension along which its shards are joined; None: every shard has the whole
_OUTER: dict[str, tuple[str, int | None]] = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", 1),
    "norm.weight": ("model.norm.weight", None),
    "output.weight": ("lm_head.weight", 0),
}
_LAYER: dict[str, tuple[str, int | None]] = {
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
    "attention_norm.weight": ("input_layernorm.weight", None),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
}
# llama2.c's order: each kind of tensor for all layers before the next kind
_BIN_LAYER = (
    "attention_norm.weight",
    "attention.wq.weight",
    "attention.wk.weight",
    "attention.wv.weight",
    "attention.wo.weight",
    "ffn_norm.weight",
    "feed_forward.w1.weight",
    "feed_forward.w2.weight",
    "feed_forward.w3.weight",
)


def load_meta(folder: Path | str, dtype: Dtype = "bf16", device: str = "cpu", max_seq_len: int = 4096) -> Llama:
    """A language model from Meta's folder: ``params.json`` and one to eight ``consolidated.NN.pth``.

    Shards are read one after another, memory-mapped and with ``weights_only=True``; memory at its peak: the
    model and one shard.

    Args:
        folder: as downloaded.
        dtype: of the model made (the files hold bf16 or fp16).
        device: where it is made.
        max_seq_len: ``params.json`` does not say; 4096 for every Llama 2.

    Raises:
        ArtifactError: a file or a size is missing or not as expected.
        WeightsError: a tensor is missing, left over or of another shape.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("consolidated.*.pth"))
    if not shards:
        raise ArtifactError(f"{folder}: no consolidated.*.pth; a folder as Meta ships it was expected")
    first = _read_pth(shards[0])
    config = _meta_config(folder / "params.json", first, max_seq_len)
    if config.n_kv_heads % len(shards):
        raise ArtifactError(f"{folder}: {len(shards)} shards cannot share {config.n_kv_heads} key/value heads")
    model = allocate(Llama, config, dtype, device)
    expected = places(model)
    names = _names(config)
    for number, path in enumerate(shards):
        tensors = first if number == 0 else _read_pth(path)
        for name, tensor in tensors.items():
            if name == "rope.freqs" or name.endswith("inner_attention.rope.freqs"):
                continue  # follows from the sizes
            check_name(name, names, str(path))
            ours, dim = names[name]
            part = expected[ours].data
            if dim is not None:
                width = part.shape[dim] // len(shards)
                part = part.narrow(dim, number * width, width)
            check_shape(name, tensor.shape, part.shape, str(path))
            if dim is not None or number == 0:
                part.copy_(_ours(name, tensor, config.head_dim))
        check_complete(tensors, names, str(path))
        first = tensors = {}
    return model


def load_llama2c(path: Path | str, dtype: Dtype = "fp32", device: str = "cpu") -> Llama:
    """A language model from llama2.c's version-0 file (``export.py``, stories*.bin).

    Raises:
        ArtifactError: no such file or an impossible header.
        WeightsError: the file is shorter or longer than its header says.
    """
    path = Path(path)
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.bin")] if path.parent.is_dir() else []
        raise ArtifactError(f"{path}: no such file{nearest(path.name, beside)}")
    with path.open("rb") as stream:
        header = stream.read(28)
        if len(header) < 28:
            raise ArtifactError(f"{path}: expected a header of seven int32, found {len(header)} bytes")
        dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("<7i", header)
        try:
            config = LlamaConfig(
                vocab_size=abs(vocab),
                dim=dim,
                n_layers=layers,
                n_heads=heads,
                n_kv_heads=kv_heads,
                ffn_dim=hidden,
                max_seq_len=length,
                tie_embeddings=vocab > 0,
            )
        except (ValueError, ZeroDivisionError) as error:
            found = [dim, hidden, layers, heads, kv_heads, vocab, length]
            raise ArtifactError(f"{path}: not a llama2.c file: header {found}") from error
        tables = 2 * length * (config.head_dim // 2)  # cosines and sines, which follow from the sizes
        expected_bytes = 28 + 4 * (config.parameters() + tables)
        if path.stat().st_size != expected_bytes:
            raise WeightsError(f"{path}: expected {expected_bytes} bytes, found {path.stat().st_size}")
        model = allocate(Llama, config, dtype, device)
        expected = places(model)
        names = _names(config)
        for name in _bin_order(config):
            if name is None:
                stream.seek(4 * tables, 1)
                continue
            parameter = expected[names[name][0]].data
            raw = bytearray(stream.read(4 * parameter.numel()))
            tensor = torch.frombuffer(raw, dtype=torch.float32).view(parameter.shape)
            parameter.copy_(_ours(name, tensor, config.head_dim))
    return model


def _names(config: LlamaConfig) -> dict[str, tuple[str, int | None]]:
    """Every one of Meta's names -> ours and the dimension of sharding."""
    names = dict(_OUTER)
    if config.tie_embeddings:
        del names["output.weight"]
    for layer in range(config.n_layers):
        for theirs, (ours, dim) in _LAYER.items():
            names[f"layers.{layer}.{theirs}"] = (f"model.layers.{layer}.{ours}", dim)
    return names


def _bin_order(config: LlamaConfig) -> Iterator[str | None]:
    """Meta's names in the order of a ``.bin``; None: the rotary tables, to be skipped."""
    yield "tok_embeddings.weight"
    for kind in _BIN_LAYER:
        for layer in range(config.n_layers):
            yield f"layers.{layer}.{kind}"
    yield "norm.weight"
    yield None
    if not config.tie_embeddings:
        yield "output.weight"


def _ours(name: str, tensor: Tensor, head_dim: int) -> Tensor:
    """A tensor in our layout: within each head of q and k, even rows first, then odd ones."""
    if not name.endswith(("wq.weight", "wk.weight")):
        return tensor
    rows, dim = tensor.shape
    return tensor.view(rows // head_dim, head_dim // 2, 2, dim).transpose(1, 2).reshape(rows, dim)


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path}: not a file of plain tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path}: expected a mapping of names to tensors, found {type(loaded).__name__}")
    return loaded


def _meta_config(path: Path, first: dict[str, Tensor], max_seq_len: int) -> LlamaConfig:
    """Sizes from ``params.json``; the vocabulary's, -1 there in Llama 2, from the embedding."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; Meta's folders have it beside the shards")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    for key in ("dim", "n_layers", "n_heads", "norm_eps"):
        if key not in values:
            raise ArtifactError(f"{path}: {key} is missing{nearest(key, values)}")
    if "tok_embeddings.weight" not in first:
        raise WeightsError(f"{path.parent}: missing tok_embeddings.weight")
    warn_eps(values["norm_eps"], str(path))
    width = ffn_width(values["dim"], values.get("multiple_of", 256), values.get("ffn_dim_multiplier"))
    try:
        return LlamaConfig(
            vocab_size=first["tok_embeddings.weight"].shape[0],
            dim=values["dim"],
            n_layers=values["n_layers"],
            n_heads=values["n_heads"],
            n_kv_heads=values.get("n_kv_heads") or values["n_heads"],
            ffn_dim=width,
            norm_eps=values["norm_eps"],
            rope_theta=values.get("rope_theta", 10000.0),
            max_seq_len=max_seq_len,
        )
    except ValueError as error:
        raise ArtifactError(f"{path}: impossible sizes: {' '.join(str(error).split())}") from error
