"""Memory estimates against bytes counted in a real forward and against published numbers of ZeRO."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from align.model.config import PRESETS, Dtype, LoraConfig
from align.model.llama import KVCache, Llama
from align.model.memory import Memory, activations, sampling, scoring, training
from align.model.strict import DTYPES
from tests.model.peers import tiny


def kept_for_backward(model: Llama, rows: int, length: int, packed: bool) -> int:
    """Bytes of the distinct storages that autograd saves in the backbone's forward, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    tokens = torch.ones(rows, length, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(tokens, segments=tokens if packed else None)
    return sum(found.values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_activations_are_what_autograd_keeps(
    dtype: Dtype, packed: bool, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.model.fused.usable", lambda x: False)  # what an accelerator computes
    config = tiny(kv_heads, dim=128, n_heads=8, n_layers=3, ffn_dim=352, max_seq_len=320)
    model = Llama(config).to(DTYPES[dtype])
    counted = kept_for_backward(model, 3, 288, packed)  # longer than rows whose attention is written out
    estimate = activations(config, dtype, 3, 288, packed)
    tables = 320 * 16 * 4  # cosines and sines, whatever the batch
    assert counted == estimate + tables + 3 * 288 * 8  # and the tokens themselves


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_cache_is_what_is_allocated(dtype: Dtype) -> None:
    config = tiny()
    cache = KVCache(config, rows=5, slots=33, dtype=DTYPES[dtype])
    found = sampling(config, dtype="bf16", cache=dtype, slots=5, length=33)
    assert found.cache == cache.k.nbytes + cache.v.nbytes
    assert found.weights == 2 * config.parameters()


def plain(stage: int, processes: int, dtype: Dtype = "bf16", **more: Any) -> Memory:
    return training(PRESETS["llama2-7b"], stage=stage, dtype=dtype, rows=1, length=4096, processes=processes, **more)


def test_zero_splits_what_its_paper_says() -> None:
    """Rajbhandari et al. 2020, figure 1: optimizer state is 12 bytes a weight, split from stage 1 on."""
    count = 6_738_415_616
    assert plain(1, 1).optimizer == 12 * count
    assert plain(1, 64).optimizer == 12 * count // 64
    assert plain(1, 64).weights == plain(2, 64).weights == 2 * count
    assert plain(2, 64).gradients < plain(1, 64).gradients
    assert plain(3, 64).weights == 2 * count // 64 + 2 * 10**9
    assert plain(3, 64).device < plain(2, 64).device < plain(1, 64).device
    assert plain(0, 1, "fp32").optimizer == 8 * count  # the weights are their own masters


def test_offload_moves_and_does_not_vanish() -> None:
    here, there = plain(3, 4), plain(3, 4, offload_optimizer=True, offload_params=True)
    assert there.optimizer == 0
    assert here.host == 0
    assert here.device == there.device + there.host


def test_adapters_need_little_and_the_base_stays() -> None:
    lora = LoraConfig(rank=8, targets=("q_proj", "v_proj"))
    adapters = 32 * 8 * (4096 + 4096) * 2  # layers, rank, in + out, two targets
    found = plain(1, 1, lora=lora)
    assert found.weights == 2 * (6_738_415_616 + adapters)
    assert found.optimizer == 12 * adapters


def test_checkpointing_and_chunks_need_less() -> None:
    """Of Llama 2 7B's rows of 4,096 tokens the layers' inputs alone are 32 * 4096 * 4096 * 2 bytes, 1 GiB."""
    found = {mode: plain(3, 8, checkpointing=mode) for mode in ("none", "selective", "full")}
    assert found["full"].activations < found["selective"].activations / 3 < found["none"].activations / 3
    assert 2**30 < found["full"].activations < 2 * 2**30
    assert found["none"].logits < plain(3, 8, whole_logits=True).logits / 2
    assert len({memory.weights for memory in found.values()}) == 1


def test_parts_add_up() -> None:
    config = PRESETS["llama2-7b"]
    reward, policy = scoring(config, dtype="bf16", head=False), scoring(config, dtype="bf16", head=True)
    assert policy.weights - reward.weights == 2 * (32000 - 1) * 4096
    assert (reward + policy).device == reward.device + policy.device
    scorer = training(config, stage=1, dtype="bf16", rows=1, length=64, head=False)
    assert scorer.logits == 0
