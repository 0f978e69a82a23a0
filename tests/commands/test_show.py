from __future__ import annotations

from pathlib import Path

import pytest

from align.artifacts import building, publish, write_text
from tests.commandline import align, here, make_policy, refused


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("shelf") / "policy")


def test_show_prints_manifest_and_lineage(policy: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    for _ in range(2):
        with building(child) as folder:
            write_text(folder / "a.txt", "x")
            publish(folder, child, stage="sft", name="child", recipe={}, seed=0, parents=[policy])
    done = align("show", child, "--verify")
    assert done.returncode == 0
    assert "made by the stage sft" in done.stdout
    assert "every digest verified" in done.stdout
    assert "lineage\n  child  sft\n    policy  pretrain\n" in done.stdout
    base = here("show", policy)
    assert "hf_token: '***'" in base.stdout
    assert "hush" not in base.stdout
    assert "loss: 1.25" in base.stdout
    assert "seed     5" in base.stdout


def test_show_explains_a_wrong_folder(policy: Path, tmp_path: Path) -> None:
    assert "no such artifact folder (did you mean 'policy'?)" in refused("show", policy.parent / "polcy")
    assert "it has no manifest.json" in refused("show", tmp_path)


def test_show_tells_a_parent_that_was_made_anew(tmp_path: Path) -> None:
    def make(name: str, text: str, **kwargs: object) -> None:
        out = tmp_path / name
        with building(out) as folder:
            write_text(folder / "a.txt", text)
            publish(folder, out, stage="sft", name=name, recipe={}, seed=0, **kwargs)  # type: ignore[arg-type]

    make("base", "1")
    make("child", "1", parents=[tmp_path / "base"])
    assert "made anew" not in here("show", tmp_path / "child").stdout
    make("base", "2")
    assert "child  sft  (made anew since: base)" in here("show", tmp_path / "child").stdout
