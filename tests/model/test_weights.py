"""Hugging Face folders in and out: bits kept, transformers agrees, and a wrong checkpoint is named tensor by tensor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.errors import ArtifactError, WeightsError
from align.model.config import Dtype, LlamaConfig, read_config
from align.model.heads import Scorer, scorer_from_policy
from align.model.llama import Llama
from align.model.strict import allocate
from align.model.weights import load_policy, load_scorer, save_policy, save_scorer
from tests.model.peers import policies, randomise, scorers, tiny

TOKENS = torch.randint(1, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def bits(folder: Path) -> dict[str, bytes]:
    """Every tensor of a folder's files as dtype and raw bytes."""
    found: dict[str, bytes] = {}
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert name not in found
            found[name] = str(tensor.dtype).encode() + tensor.view(torch.uint8).numpy().tobytes()
    return found


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000, 1])
def test_transformers_folder_comes_back_bit_identical(dtype: Dtype, shard_bytes: int, tmp_path: Path) -> None:
    config = tiny()
    _, theirs = policies(config)
    theirs.to({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype])
    theirs.save_pretrained(tmp_path / "in", max_shard_size=20_000)
    assert (tmp_path / "in" / "model.safetensors.index.json").exists()
    save_policy(load_policy(tmp_path / "in", dtype), config, tmp_path / "out", shard_bytes=shard_bytes)
    assert bits(tmp_path / "out") == bits(tmp_path / "in")
    assert read_config(tmp_path / "out") == read_config(tmp_path / "in") == config

    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"]
    else:
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(p.numel() * p.element_size() for p in theirs.parameters())
        assert sorted(set(index["weight_map"].values())) == files
        for name, file in index["weight_map"].items():
            assert name in load_file(tmp_path / "out" / file)
        assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
        assert len(files) == (len(index["weight_map"]) if shard_bytes == 1 else len(files))
    assert not list((tmp_path / "out").glob(".*"))


def test_scorer_of_transformers_loads(tmp_path: Path) -> None:
    ours, theirs = scorers(tiny())
    theirs.save_pretrained(tmp_path)
    assert torch.equal(load_scorer(tmp_path)(TOKENS), ours(TOKENS))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "missing model.norm.weight"),
        (
            lambda t: [t.pop(name) for name in list(t) if ".mlp." in name],
            "missing model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight,"
            " model.layers.0.mlp.down_proj.weight and 3 more",
        ),
        (
            lambda t: t.update({"model.layers.0.mlp.gate.weight": t.pop("model.layers.0.mlp.gate_proj.weight")}),
            "model.layers.0.mlp.gate.weight: left over, the model has no such tensor"
            " (did you mean 'model.layers.0.mlp.gate_proj.weight'?)",
        ),
        (
            lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:-1]}),
            "lm_head.weight: expected shape [97, 32], found [96, 32]",
        ),
        (
            lambda t: t.update({"model.layers.1.self_attn.k_proj.weight": torch.zeros(32, 32)}),
            "model.layers.1.self_attn.k_proj.weight: expected shape [16, 32], found [32, 32]",
        ),
        (lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(32)}), "layers.2.input_layernorm"),
    ],
)
def test_wrong_tensors_are_named(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    ours, _ = policies(tiny())
    save_policy(ours, tiny(), tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(WeightsError) as caught:
        load_policy(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_tables_that_follow_from_the_sizes_are_passed_over(tmp_path: Path) -> None:
    ours, _ = policies(tiny())
    save_policy(ours, tiny(), tmp_path)
    rewrite(tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert torch.equal(load_policy(tmp_path)(TOKENS), ours(TOKENS))


def test_a_tied_heads_copy_must_be_a_copy(tmp_path: Path) -> None:
    config = tiny(tie_embeddings=True)
    ours = Llama(config)
    randomise(ours)
    save_policy(ours, config, tmp_path)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert torch.equal(load_policy(tmp_path)(TOKENS), ours(TOKENS))
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    with pytest.raises(WeightsError, match=r"lm_head.weight: differs from the embedding, yet config.json ties"):
        load_policy(tmp_path)


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    ours, _ = policies(tiny())
    save_policy(ours, tiny(), tmp_path, shard_bytes=20_000)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=re.escape(f"{shard}: not a readable safetensors file")):
        load_policy(tmp_path)
    shard.unlink()
    with pytest.raises(WeightsError, match=f"shard {shard.name} is missing"):
        load_policy(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match="a shard must lie in the same folder"):
        load_policy(tmp_path)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="expected a JSON object with a weight_map"):
        load_policy(tmp_path)
    index.unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors and no model\.safetensors\.index\.json"):
        load_policy(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    ours, _ = policies(tiny())
    save_policy(ours, tiny(), tmp_path, shard_bytes=20_000)
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    save_file(load_file(last) | {"model.embed_tokens.weight": torch.zeros(97, 32)}, last)
    with pytest.raises(WeightsError, match=r"model\.embed_tokens\.weight: also in another shard"):
        load_policy(tmp_path)


def test_the_wrong_kind_of_model_is_refused(tmp_path: Path) -> None:
    policy, _ = policies(tiny())
    save_policy(policy, tiny(), tmp_path / "policy")
    save_scorer(scorer_from_policy(policy, 0), tiny(), tmp_path / "scorer")
    with pytest.raises(ArtifactError, match="expected LlamaForSequenceClassification, found LlamaForCausalLM"):
        load_scorer(tmp_path / "policy")
    with pytest.raises(ArtifactError, match="expected LlamaForCausalLM, found LlamaForSequenceClassification"):
        load_policy(tmp_path / "scorer")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "params.json").write_text("{}")
    with pytest.raises(ArtifactError, match="a checkpoint as Meta ships it"):
        load_policy(tmp_path / "meta")


MEASURE = """
import sys
from align.model.weights import load_policy
def read(key):
    return int(next(l for l in open("/proc/self/status") if l.startswith(key)).split()[1]) * 1024
load_policy(sys.argv[1])  # what torch loads lazily is no part of a checkpoint
for dtype in ("bf16", "fp32"):
    before = read("VmRSS")
    model = load_policy(sys.argv[2], dtype)
    print(read("VmHWM") - before)
    del model
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_loading_needs_the_model_and_one_shard(tmp_path: Path) -> None:
    small = tiny()
    save_policy(Llama(small), small, tmp_path / "small")
    config = LlamaConfig(vocab_size=8000, dim=512, n_layers=12, n_heads=8, n_kv_heads=8, ffn_dim=1408)
    save_policy(allocate(Llama, config, "fp32", "cpu"), config, tmp_path / "large", shard_bytes=16 * 2**20)
    files = list((tmp_path / "large").glob("*.safetensors"))
    assert len(files) > 10
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "large")],
        check=True,
        capture_output=True,
        text=True,
        # every tensor its own mapping, so that the first model's memory is given back before the second
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"},
    )
    one_shard = max(file.stat().st_size for file in files)
    for bytes_each, line in zip((2, 4), ran.stdout.split(), strict=True):
        weights = bytes_each * config.parameters()
        assert 0.95 * weights < int(line) < weights + one_shard + 8 * 2**20, (weights, one_shard, line)


def test_names_are_those_of_transformers() -> None:
    _, policy = policies(tiny())
    _, scorer = scorers(tiny())
    assert {name for name, _ in Llama(tiny()).named_parameters()} == set(dict(policy.named_parameters()))
    assert {name for name, _ in Scorer(tiny()).named_parameters()} == set(dict(scorer.named_parameters()))
