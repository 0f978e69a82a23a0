"""Dialogues -> rows -> batches -> one update: however rows are laid out, dealt or computed again, it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align.data.tokenizer import Tokenizer
from align.engine import checkpoint
from align.engine.zero_state import copy_weights, gathered
from align.errors import TrainingError
from align.model.config import LONG
from align.records import Row
from tests.engine.small import LORA, engine, gap, layouts, model, moments, oracle, rows, step, tokenizer_in

SLOW = pytest.mark.slow
LAYOUTS = (
    "quarter rows, one a pass", "quarter rows, all in a pass", "full rows", "long full rows", "padded", "single rows",
)  # fmt: skip


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return rows(Tokenizer(tokenizer_in(tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture(scope="module")
def expected(documents: list[Row]) -> tuple[float, dict[str, Tensor]]:
    return oracle(documents, model())


def test_the_lay_outs_are_what_they_are_called(documents: list[Row]) -> None:
    made = layouts(documents)
    assert tuple(made) == LAYOUTS
    shapes = {name: [tuple(batch.tokens.shape) for batch in batches] for name, batches in made.items()}
    assert len(shapes["quarter rows, one a pass"]) > len(shapes["quarter rows, all in a pass"]) >= 1
    assert shapes["full rows"][0][1] > 140
    assert shapes["long full rows"][0][1] > LONG, "attention goes document by document"
    assert len(shapes["single rows"]) == len(documents)
    counted = {sum(int(batch.mask.sum()) for batch in batches) for batches in made.values()}
    assert counted == {sum(int(row.mask.sum()) for row in documents)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_padded_and_single_rows_are_one(
    layout: str, documents: list[Row], expected: tuple[float, dict[str, Tensor]]
) -> None:
    loss, gradient = expected
    fake = Fake()
    result = step(fake, layouts(documents)[layout])
    assert result.losses["loss"] == pytest.approx(loss, abs=1e-5)
    assert result.counts["loss"] == sum(int(row.mask.sum()) for row in documents)
    assert max(float(g.abs().max()) for g in gradient.values()) > 0.01
    found = {name: p.grad for name, p in fake.module.named_parameters() if p.grad is not None}
    assert gap(found, gradient) < 1e-5


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 3])
def test_checkpointing_under_zero(stage: int, documents: list[Row], expected: tuple[float, dict[str, Tensor]]) -> None:
    loss, gradient = expected
    micros = layouts(documents)["quarter rows, all in a pass"]
    found: dict[str, dict[str, Tensor]] = {}
    for mode in ("none", "selective", "full"):
        with engine(stage, checkpointing=mode) as trained:
            assert step(trained, micros).losses["loss"] == pytest.approx(loss, abs=1e-5)
            if mode == "none":
                assert gap(moments(trained), gradient) < 1e-5
            step(trained, micros)
            found[mode] = dict(gathered(trained))
    for mode in ("selective", "full"):
        assert all(torch.equal(found[mode][name], found["none"][name]) for name in gradient), mode


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_checkpointing_in_bf16(stage: int, documents: list[Row]) -> None:
    micros = layouts(documents)["full rows"]
    found: dict[str, dict[str, Tensor]] = {}
    for mode in ("none", "selective", "full"):
        with engine(stage, "bf16", checkpointing=mode) as trained:
            step(trained, micros)
            found[mode] = dict(gathered(trained))
    for mode in ("selective", "full"):
        assert all(torch.equal(found[mode][name], tensor) for name, tensor in found["none"].items()), mode


@pytest.mark.parametrize("mode", [pytest.param("selective", marks=SLOW), "full"])
def test_stage_3_forgets_a_layer_that_was_computed_again(mode: str, documents: list[Row]) -> None:
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

    with engine(3, checkpointing=mode) as trained:
        before = list(FWD_MODULE_STACK)
        step(trained, layouts(documents)["padded"])
        assert before == FWD_MODULE_STACK


def test_a_module_without_layers_cannot_be_checkpointed() -> None:
    from align.engine.zero import ZeroConfig, wrap
    from tests.engine.toy import OPTIM, Toy

    with pytest.raises(TrainingError, match="checkpointing: full: Toy has no layers for it"):
        wrap(Toy(), OPTIM, ZeroConfig(stage=0, dtype="fp32", checkpointing="full"), 1)


@pytest.mark.parametrize(
    ("stage", "mode"),
    [
        pytest.param(1, "selective", marks=SLOW),
        pytest.param(2, "full", marks=SLOW),
        (3, "selective"),
        pytest.param(3, "none", marks=SLOW),
    ],
)
def test_adapters_under_zero(stage: int, mode: str, documents: list[Row]) -> None:
    """Loss, gradient and two updates as plain torch's; the base stays; what rollouts copy computes the same."""
    micros = layouts(documents)["padded"]
    loss, gradient = oracle(documents, model(LORA))
    assert all("lora_" in name for name in gradient)
    with engine(0, lora=LORA) as reference:
        for _ in range(2):
            step(reference, micros)
        after = dict(gathered(reference))
    with engine(stage, lora=LORA, checkpointing=mode) as trained:
        assert step(trained, micros).losses["loss"] == pytest.approx(loss, abs=1e-5)
        assert gap(moments(trained), gradient) < 1e-5
        step(trained, micros)
        found = dict(gathered(trained))
        copied = model(LORA)
        copy_weights(trained, copied)
    start = dict(model(LORA).named_parameters())
    assert found.keys() == start.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, start[name]) == ("lora_" not in name), name
        torch.testing.assert_close(tensor, after[name], rtol=0, atol=1e-6)
        assert torch.equal(copied.get_parameter(name), tensor)


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        (0, "fp32"),
        (3, "fp32"),
        pytest.param(2, "fp32", marks=SLOW),
        pytest.param(1, "bf16", marks=SLOW),
        pytest.param(3, "bf16", marks=SLOW),
    ],
)
def test_adapters_resume_to_the_same_bits(stage: int, dtype: str, documents: list[Row], tmp_path: Path) -> None:
    micros = layouts(documents)["full rows"]
    with engine(stage, dtype, LORA) as trained:
        for number in range(4):
            if number == 2:
                checkpoint.save(tmp_path, 2, {"engine": trained}, {})
            step(trained, micros)
        straight = dict(gathered(trained))
    state = checkpoint.read_state(tmp_path / "step-00000002")
    kept = {key.partition("/")[2] for key in state["engines"]["engine"]["tensors"]}
    assert kept == {name for name in straight if "lora_" in name}, "the frozen base is not written again and again"
    with engine(stage, dtype, LORA) as again:
        with torch.no_grad():
            for parameter in again.module.parameters():
                if parameter.requires_grad and stage == 0:
                    parameter.fill_(7.0)  # whatever was there
        assert checkpoint.load(tmp_path, {"engine": again}) == (2, {})
        for _ in range(2):
            step(again, micros)
        for name, tensor in gathered(again):
            assert torch.equal(tensor, straight[name]), name


class Fake:
    """An engine that is not one: forward and plain gradients, for what has nothing to do with DeepSpeed."""

    def __init__(self) -> None:
        self.module = model()
        self.steps = 0
        self.device = torch.device("cpu")
        self.grad_norm = self.lr = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.steps += 1
