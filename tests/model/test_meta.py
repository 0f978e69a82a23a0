"""Meta's shards and llama2.c's files, made here from a random model by definitions of their own."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align.errors import ArtifactError, WeightsError
from align.model.config import LlamaConfig
from align.model.llama import Llama
from align.model.weights import load_llama2c, load_meta
from tests.model.peers import policies, randomise, tiny

TOKENS = torch.randint(1, 97, (2, 11), generator=torch.Generator().manual_seed(0))
WIDE = {"dim": 64, "n_heads": 8, "ffn_dim": 96, "norm_eps": 1e-5}


def interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """Meta's row order, one row at a time: its neighbours 2i and 2i + 1 are Hugging Face's i and i + E/2."""
    out = torch.empty_like(weight)
    for head in range(weight.shape[0] // head_dim):
        for i in range(head_dim // 2):
            out[head * head_dim + 2 * i] = weight[head * head_dim + i]
            out[head * head_dim + 2 * i + 1] = weight[head * head_dim + i + head_dim // 2]
    return out


def meta_tensors(model: Llama) -> dict[str, Tensor]:
    """A model's weights under Meta's names and in its layout, written out by hand."""
    E = model.config.head_dim
    tensors = {
        "tok_embeddings.weight": model.model.embed_tokens.weight,
        "norm.weight": model.model.norm.weight,
        "output.weight": model.lm_head.weight,
    }
    for n, layer in enumerate(model.model.layers):
        tensors |= {
            f"layers.{n}.attention.wq.weight": interleaved(layer.self_attn.q_proj.weight, E),
            f"layers.{n}.attention.wk.weight": interleaved(layer.self_attn.k_proj.weight, E),
            f"layers.{n}.attention.wv.weight": layer.self_attn.v_proj.weight,
            f"layers.{n}.attention.wo.weight": layer.self_attn.o_proj.weight,
            f"layers.{n}.feed_forward.w1.weight": layer.mlp.gate_proj.weight,
            f"layers.{n}.feed_forward.w2.weight": layer.mlp.down_proj.weight,
            f"layers.{n}.feed_forward.w3.weight": layer.mlp.up_proj.weight,
            f"layers.{n}.attention_norm.weight": layer.input_layernorm.weight,
            f"layers.{n}.ffn_norm.weight": layer.post_attention_layernorm.weight,
        }
    return {name: tensor.detach() for name, tensor in tensors.items()}


def split(name: str, tensor: Tensor, shards: int) -> list[Tensor]:
    """Column-parallel layers are cut along the outputs, row-parallel ones and the embedding along the inputs."""
    if "norm" in name:
        return [tensor] * shards
    row_parallel = ("wo.weight", "w2.weight", "tok_embeddings.weight")
    return [part.clone() for part in tensor.chunk(shards, dim=1 if name.endswith(row_parallel) else 0)]


def write_meta(model: Llama, folder: Path, shards: int, change: Callable[..., Any] = lambda p, n: None) -> None:
    folder.mkdir(exist_ok=True)
    c = model.config
    params: dict[str, Any] = {"dim": c.dim, "n_layers": c.n_layers, "n_heads": c.n_heads, "norm_eps": c.norm_eps}
    params |= {"vocab_size": -1, "multiple_of": 32, "n_kv_heads": c.n_kv_heads}
    params["ffn_dim_multiplier"] = c.ffn_dim / (8 / 3 * c.dim)
    (folder / "params.json").write_text(json.dumps(params))
    parts = {name: split(name, tensor, shards) for name, tensor in meta_tensors(model).items()}
    for number in range(shards):
        shard: dict[str, Any] = {name: pieces[number] for name, pieces in parts.items()}
        shard["rope.freqs"] = torch.ones(c.head_dim // 2)
        change(shard, number)
        torch.save(shard, folder / f"consolidated.{number:02}.pth")


def wide(n_kv_heads: int = 8) -> Llama:
    model = Llama(tiny(n_kv_heads, vocab_size=96, **WIDE))
    randomise(model)
    return model


@pytest.mark.parametrize("kv_heads", [8, 4, 1])
@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_shards_give_the_model_they_were_cut_from(kv_heads: int, shards: int, tmp_path: Path) -> None:
    model = wide(kv_heads)
    write_meta(model, tmp_path, shards)
    if kv_heads % shards:
        with pytest.raises(ArtifactError, match=f"{shards} shards cannot share {kv_heads} key/value heads"):
            load_meta(tmp_path)
        return
    loaded = load_meta(tmp_path, dtype="fp32", max_seq_len=64)
    assert loaded.config == model.config
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    assert torch.equal(loaded(TOKENS % 96), model(TOKENS % 96))


def test_permutation_equals_the_published_formula() -> None:
    """Hugging Face's convert_llama_weights_to_hf.py: view(n, hd/2, 2, D).transpose(1, 2) undoes the interleaving."""
    weight = torch.randn(24, 5)
    meta = interleaved(weight, 8)
    assert torch.equal(meta.view(3, 4, 2, 5).transpose(1, 2).reshape(24, 5), weight)
    assert torch.equal(weight.view(3, 2, 4, 5).transpose(1, 2).reshape(24, 5), meta)


def test_bf16_is_the_default_as_shipped(tmp_path: Path) -> None:
    model = wide().bfloat16()
    write_meta(model, tmp_path, 2)
    loaded = load_meta(tmp_path)
    assert loaded.config.max_seq_len == 4096
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (1, lambda s: s.pop("layers.1.attention.wk.weight"), "missing layers.1.attention.wk.weight"),
        (0, lambda s: s.pop("tok_embeddings.weight"), "missing tok_embeddings.weight"),
        (1, lambda s: s.update({"layers.0.attention.bias": torch.ones(2)}), "layers.0.attention.bias: left over"),
        (
            1,
            lambda s: s.update({"layers.0.attention.wq.weight": torch.ones(64, 64)}),
            "layers.0.attention.wq.weight: expected shape [32, 64], found [64, 64]",
        ),
        (0, lambda s: s.update({"norm.weight": torch.ones(32)}), "norm.weight: expected shape [64], found [32]"),
    ],
)
def test_wrong_tensors_are_named(number: int, change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    write_meta(wide(), tmp_path, 2, lambda shard, n: change(shard) if n == number else None)
    with pytest.raises(WeightsError) as caught:
        load_meta(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("trap-has-sprung"),))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_meta(wide(), tmp_path, 1, lambda shard, n: shard.update({"norm.weight": Trap()}))
    with pytest.raises(WeightsError, match="not a file of plain tensors"):
        load_meta(tmp_path)
    assert not Path("trap-has-sprung").exists()
    torch.save([torch.ones(2)], tmp_path / "consolidated.00.pth")
    with pytest.raises(WeightsError, match="expected a mapping of names to tensors, found list"):
        load_meta(tmp_path)
    (tmp_path / "consolidated.00.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="not a file of plain tensors"):
        load_meta(tmp_path)


def test_meta_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no consolidated\.\*\.pth"):
        load_meta(tmp_path)
    write_meta(wide(), tmp_path, 1)
    (tmp_path / "params.json").write_text('{"dim": 64, "n_layer": 2, "n_heads": 8, "norm_eps": 1e-5}')
    with pytest.raises(ArtifactError, match=r"n_layers is missing \(did you mean 'n_layer'\?\)"):
        load_meta(tmp_path)
    (tmp_path / "params.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"params\.json: not JSON"):
        load_meta(tmp_path)
    (tmp_path / "params.json").unlink()
    with pytest.raises(ArtifactError, match=r"params\.json: no such file"):
        load_meta(tmp_path)


def test_the_shipped_wrong_epsilon_warns(tmp_path: Path) -> None:
    model = Llama(tiny(8, **(WIDE | {"norm_eps": 1e-6})))
    randomise(model)
    write_meta(model, tmp_path, 1)
    with pytest.warns(UserWarning, match="1e-6; every Llama 2 size"):
        load_meta(tmp_path)


def write_bin(model: Llama, path: Path) -> None:
    """llama2.c's export: header, then each kind of tensor for all layers before the next."""
    c: LlamaConfig = model.config
    vocab = c.vocab_size if c.tie_embeddings else -c.vocab_size
    header = struct.pack("<7i", c.dim, c.ffn_dim, c.n_layers, c.n_heads, c.n_kv_heads, vocab, c.max_seq_len)
    tensors = meta_tensors(model)
    layers = range(c.n_layers)
    order = [tensors["tok_embeddings.weight"]]
    for kind in ("attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo"):
        order += [tensors[f"layers.{n}.{kind}.weight"] for n in layers]
    for kind in ("ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"):
        order += [tensors[f"layers.{n}.{kind}.weight"] for n in layers]
    order += [tensors["norm.weight"], torch.full((c.max_seq_len, c.head_dim), 9.0)]
    if not c.tie_embeddings:
        order.append(tensors["output.weight"])
    path.write_bytes(header + b"".join(tensor.contiguous().numpy().tobytes() for tensor in order))


@pytest.mark.parametrize("tied", [False, True])
def test_llama2c_files_give_the_model_they_were_written_from(tied: bool, tmp_path: Path) -> None:
    model = Llama(tiny(tie_embeddings=tied))
    randomise(model)
    write_bin(model, tmp_path / "model.bin")
    loaded = load_llama2c(tmp_path / "model.bin")
    assert loaded.config == model.config
    assert torch.equal(loaded(TOKENS), model(TOKENS))


def test_broken_llama2c_files_are_refused(tmp_path: Path) -> None:
    model, _ = policies(tiny())
    path = tmp_path / "model.bin"
    write_bin(model, path)
    whole = path.read_bytes()
    for content in (whole[:-4], whole + b"\0\0\0\0"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=f"expected {len(whole)} bytes, found {len(content)}"):
            load_llama2c(path)
    path.write_bytes(whole[:20])
    with pytest.raises(ArtifactError, match="expected a header of seven int32, found 20 bytes"):
        load_llama2c(path)
    path.write_bytes(b"\x7fELF" + whole[4:])
    with pytest.raises(ArtifactError, match=r"not a llama2\.c file"):
        load_llama2c(path)
    with pytest.raises(ArtifactError, match=r"modle\.bin: no such file \(did you mean 'model\.bin'\?\)"):
        load_llama2c(tmp_path / "modle.bin")
