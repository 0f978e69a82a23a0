"""Two processes train as one: one torchrun for all of it, since starting costs most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from align.engine import checkpoint
from align.engine.step import update
from align.engine.zero_state import gathered
from tests.engine.torchrun import in_two_processes
from tests.engine.toy import counts, deal, engine, oracle, rows, terms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps by one process at stage 0, and what two processes found and saved after
    it.
    """
    folder = tmp_path_factory.mktemp("two")
    with engine(0) as trained:
        for step in range(2):
            update(trained, deal(rows(step), [8]), counts, terms)
        checkpoint.save(folder / "one", 2, {"engine": trained}, {})
    in_two_processes("tests.engine.two_processes", folder)
    return folder


@pytest.fixture(scope="module")
def findings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "findings.json").read_text())


def test_every_stage_and_deal_equals_plain_torch(findings: dict[str, Any]) -> None:
    assert len(findings["differences"]) == 6
    assert {name: gap for name, gap in findings["differences"].items() if gap > 1e-6} == {}


def test_bf16_gradients_are_summed_in_fp32_over_micro_batches_and_processes(findings: dict[str, Any]) -> None:
    assert {name: gap for name, gap in findings["bf16"].items() if gap > 1e-6} == {}


@pytest.mark.parametrize("written_at", [0, 3])
@pytest.mark.parametrize("read_at", [0, 2, 3])
def test_a_run_goes_on_at_another_number_of_processes_and_stage(folder: Path, written_at: int, read_at: int) -> None:
    expected, _, _ = oracle(4)
    with engine(read_at) as trained:
        loaded = checkpoint.load(folder / f"two-{written_at}", {"engine": trained})
        assert loaded == (3, {"note": "é"})
        update(trained, deal(rows(3), [3, 5]), counts, terms)
        for name, tensor in gathered(trained):
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
