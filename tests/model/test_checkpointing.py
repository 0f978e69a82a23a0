"""Whatever is kept or computed again, the gradients are the same to the bit, and less is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from align.model.checkpointing import set_checkpointing
from align.model.config import Checkpointing, Dtype, LlamaConfig, LoraConfig
from align.model.heads import Scorer
from align.model.llama import KVCache, Llama
from align.model.lora import add_lora
from align.model.memory import activations
from align.model.strict import DTYPES
from tests.model.peers import randomise, tiny

MODES: tuple[Checkpointing, ...] = ("none", "selective", "full")
CONFIG = tiny(max_seq_len=700)
TOKENS = torch.randint(1, 97, (2, 40), generator=torch.Generator().manual_seed(0))
SEGMENTS = torch.tensor([[1] * 13 + [2] * 27, [1] * 30 + [2] * 7 + [0] * 3])
TREES = torch.tensor([[1] * 13 + [2] * 20 + [3] * 7] * 2)
STEMS = torch.tensor([[-1] * 13 + [1] * 27] * 2)
LONG = torch.randint(1, 97, (1, 600), generator=torch.Generator().manual_seed(1))
LONG_SEGMENTS = torch.tensor([[1] * 290 + [2] * 100 + [3] * 210])

LAYOUTS: dict[str, Callable[[nn.Module], Tensor]] = {
    "rows": lambda m: m(TOKENS),
    "packed": lambda m: m(TOKENS, segments=SEGMENTS),
    "trees": lambda m: m(TOKENS, segments=TREES, stems=STEMS),
    "long packed": lambda m: m(LONG, segments=LONG_SEGMENTS),
}


def gradients(model: nn.Module, mode: Checkpointing, forward: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    assert set_checkpointing(model, mode) == 1
    model.zero_grad()
    out = forward(model)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_are_the_same_to_the_bit(layout: str, dtype: Dtype) -> None:
    model = Llama(CONFIG)
    randomise(model)
    model.to(DTYPES[dtype])
    expected, *others = (gradients(model, mode, LAYOUTS[layout]) for mode in MODES)
    assert len(expected) == len(list(model.parameters()))
    for found in others:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("make", [Llama, Scorer])
def test_with_adapters_and_a_scalar_head(make: Callable[[LlamaConfig], Llama | Scorer]) -> None:
    model = make(CONFIG)
    randomise(model)
    add_lora(model, LoraConfig(rank=3, targets=("q_proj", "v_proj", "down_proj")), seed=0)
    randomise_adapters(model)
    expected, *others = (gradients(model, mode, LAYOUTS["trees"]) for mode in MODES)
    assert all("lora_" in name or name == "score.weight" for name in expected)
    for found in others:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def randomise_adapters(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_what_is_computed_again(mode: Checkpointing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products: selective repeats none; full repeats a layer's but the last, whose output nobody needs."""
    # a test that ran ZeRO-3 before has left DeepSpeed's linear layer in its place, which repeats the last one too
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)
    model = Llama(CONFIG)
    randomise(model)
    counted: dict[Checkpointing, int] = {}
    for each in ("none", mode):
        with Products() as products:
            gradients(model, each, LAYOUTS["rows"])
        counted[each] = products.count
    again = 0 if mode == "selective" else 6 * CONFIG.n_layers
    assert counted[mode] - counted["none"] == again


class Products(TorchDispatchMode):
    """Counts matrix products that really run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def test_sampling_is_untouched() -> None:
    model = Llama(CONFIG)
    randomise(model)
    expected = model(TOKENS)
    set_checkpointing(model, "full")
    with torch.no_grad():
        assert torch.equal(model(TOKENS), expected)
        cache = KVCache(CONFIG, rows=2, slots=50)
        torch.testing.assert_close(model(TOKENS, cache=cache), expected, rtol=1e-5, atol=1e-5)


def kept(model: Llama, mode: Checkpointing, rows: int, length: int) -> int:
    """Bytes allocated in a forward of packed rows and still held after it, its result left out."""
    set_checkpointing(model, mode)
    tokens = torch.ones(rows, length, dtype=torch.int64)
    model.model(tokens, segments=tokens)  # rotary tables are made once
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        hidden = model.model(tokens, segments=tokens)
    assert hidden.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.events()) - hidden.nbytes


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_memory_kept_is_what_the_estimate_says(dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align.model.fused.usable", lambda x: False)  # what an accelerator computes
    config, less = (tiny(dim=64, n_heads=4, n_layers=n, ffn_dim=176, max_seq_len=320) for n in (6, 5))
    model = Llama(config).to(DTYPES[dtype])
    found = {mode: kept(model, mode, 3, 288) for mode in MODES}
    assert found["full"] < found["selective"] / 3 < found["none"] / 3
    one_layer = activations(config, dtype, 3, 288) - activations(less, dtype, 3, 288)
    for mode in ("selective", "full"):
        # the estimate is of the backward, when one layer is whole again
        estimate = activations(config, dtype, 3, 288, checkpointing=mode) - one_layer
        assert found[mode] == pytest.approx(estimate, rel=0.02), mode
