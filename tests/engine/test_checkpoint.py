"""What is on the disk: whole checkpoints only, the newest few, and errors that name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from align.engine import checkpoint
from align.engine.zero_state import gathered
from align.errors import ArtifactError
from tests.engine.toy import Toy, engine


def test_only_the_newest_whole_ones_are_kept(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    with engine(0) as trained:
        assert checkpoint.load(tmp_path, {"engine": trained}) is None
        for step in (1, 2, 10):
            checkpoint.save(tmp_path, step, {"engine": trained}, {"step": step}, keep=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]
        (tmp_path / "step-00000011.partial").mkdir()  # a kill in the middle of a save
        assert checkpoint.latest(tmp_path) == 10
        checkpoint.save(tmp_path, 10, {"engine": trained}, {"step": "again"}, keep=2)
        assert checkpoint.load(tmp_path, {"engine": trained}) == (10, {"step": "again"})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_many_files_hold_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 1000)
    module = Toy()
    with torch.no_grad():
        module.head.weight.add_(1.0)
    with engine(0, module=module) as trained:
        checkpoint.save(tmp_path, 0, {"engine": trained}, {})
        expected = dict(gathered(trained))
    assert len(list((tmp_path / "step-00000000").glob("engine-*.safetensors"))) > 3
    with engine(0) as other:
        checkpoint.load(tmp_path, {"engine": other})
        assert all(torch.equal(tensor, expected[name]) for name, tensor in gathered(other))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with engine(0) as trained:
        checkpoint.save(tmp_path, 3, {"policy": trained}, {})
        with pytest.raises(ArtifactError, match=r"holds engines \['policy'\], the run has \['critic', 'policy'\]"):
            checkpoint.load(tmp_path, {"policy": trained, "critic": trained})
        whole = tmp_path / "step-00000003"
        shard = whole / "policy-00000.safetensors"
        shard.write_bytes(shard.read_bytes()[:-5000])
        with pytest.raises(ArtifactError, match=r"policy-00000\.safetensors"):
            checkpoint.load(tmp_path, {"policy": trained})
        state = json.loads((whole / "state.json").read_text())
        (whole / "state.json").write_text(json.dumps(state | {"format": 99}))
        with pytest.raises(ArtifactError, match=r"state\.json: format 99, this version reads 1"):
            checkpoint.load(tmp_path, {"policy": trained})
        (whole / "state.json").unlink()
        with pytest.raises(ArtifactError, match=r"state\.json: missing"):
            checkpoint.load(tmp_path, {"policy": trained})


def test_another_model_is_refused(tmp_path: Path) -> None:
    with engine(0) as trained:
        checkpoint.save(tmp_path, 1, {"engine": trained}, {})
    larger = Toy()
    larger.extra = nn.Linear(2, 2)
    with (
        engine(0, module=larger) as trained,
        pytest.raises(ArtifactError, match=r"no tensor weight/extra\.weight; the checkpoint is of another model"),
    ):
        checkpoint.load(tmp_path, {"engine": trained})
    wider = Toy()
    wider.inner = nn.Linear(256, 256, bias=False)
    wider.inner.weight = nn.Parameter(torch.zeros(256, 128))
    with (
        engine(0, module=wider) as trained,
        pytest.raises(ArtifactError, match=r"inner\.weight is \[256, 256\], the run's is \[256, 128\]"),
    ):
        checkpoint.load(tmp_path, {"engine": trained})
