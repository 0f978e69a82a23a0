"""Two processes train a LLaMA as plain torch does: lay-outs, checkpointing and adapters, in one torchrun."""

from __future__ import annotations

import json

import pytest

from tests.engine.small import tokenizer_in
from tests.engine.torchrun import in_two_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("trainers")
    tokenizer_in(folder)
    in_two_processes("tests.engine.two_trainers", folder)
    found: dict[str, float] = json.loads((folder / "findings.json").read_text())
    return found


def test_every_lay_out_is_the_same_update(findings: dict[str, float]) -> None:
    ours = {name: gap for name, gap in findings.items() if not name.endswith(("selective", "full", "adapters", "base"))}
    assert len(ours) == 9
    assert {name: gap for name, gap in ours.items() if gap > 1e-5} == {}


def test_checkpointing_changes_no_bit(findings: dict[str, float]) -> None:
    ours = {name: gap for name, gap in findings.items() if name.endswith(("selective", "full"))}
    assert len(ours) == 8
    assert {name: gap for name, gap in ours.items() if gap > 0} == {}


def test_adapters_learn_and_the_base_stays(findings: dict[str, float]) -> None:
    assert len([name for name in findings if name.endswith("adapters")]) == 4
    assert {name: gap for name, gap in findings.items() if name.endswith("adapters") and gap > 1e-5} == {}
    assert {name: gap for name, gap in findings.items() if name.endswith("base") and gap > 0} == {}
