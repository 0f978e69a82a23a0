"""What ``zero.dtype: auto`` means on which processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from align.config import parse
from align.engine import precision
from align.engine.optim import OptimConfig
from align.engine.zero import ZeroConfig, wrap
from align.errors import RecipeError
from tests.engine.toy import Toy

# the lines of /proc/cpuinfo of real processors, shortened
ZEN_1 = "model name\t: AMD EPYC\nflags\t\t: fpu sse4_2 fma f16c avx2 sha_ni\n"
COOPER_LAKE = "flags\t\t: fpu avx512f avx512_vnni avx512_bf16\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16 dgh rng\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"


@pytest.mark.parametrize(
    ("info", "able"),
    [(ZEN_1, False), (COOPER_LAKE, True), (SAPPHIRE_RAPIDS, True), (GRAVITON_3, True), (GRAVITON_2, False)],
)
def test_what_linux_says_of_a_processor(tmp_path: Path, info: str, able: bool) -> None:
    (tmp_path / "cpuinfo").write_text(info)
    assert precision.cpu_has_bf16(tmp_path / "cpuinfo") is able


def test_where_nothing_is_told_it_is_fp32(tmp_path: Path) -> None:
    assert not precision.cpu_has_bf16(tmp_path / "cpuinfo")


@pytest.mark.parametrize(("able", "expected"), [(False, "fp32"), (True, "bf16")])
def test_an_engine_settles_it(monkeypatch: pytest.MonkeyPatch, able: bool, expected: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU decides here, not the processor")
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: able)
    optim = OptimConfig(lr=1e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, clip=1.0, schedule="constant")
    engine = wrap(Toy(), optim, parse(ZeroConfig, {"stage": 0, "dtype": "auto"}, "zero"), 1)
    assert engine.dtype == engine.zero.dtype == expected
    engine.close()


def test_one_rank_without_it_settles_it_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.settled("auto") == "bf16"
    monkeypatch.setattr("align.engine.dist.max_number", lambda value: max(value, 1.0))  # another rank has none
    assert precision.settled("auto") == "fp32"


def test_another_word_is_refused() -> None:
    with pytest.raises(RecipeError, match="zero: dtype: expected 'auto', 'fp32' or 'bf16'"):
        parse(ZeroConfig, {"stage": 0, "dtype": "half"}, "zero")
