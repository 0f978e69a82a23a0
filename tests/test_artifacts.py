from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align import artifacts
from align.artifacts import (
    Manifest,
    ancestors,
    building,
    is_finished,
    lineage,
    publish,
    read_manifest,
    work_dir,
    write_text,
)
from align.errors import ArtifactError


def make(
    out: Path, text: str = "x", stage: str = "sft", recipe: dict[str, Any] | None = None, **kwargs: Any
) -> Manifest:
    with building(out) as folder:
        write_text(folder / "sub" / "a.txt", text)
        return publish(folder, out, stage=stage, name=out.name, recipe=recipe or {"a": 1}, seed=3, **kwargs)


def test_the_manifest_says_what_was_made_from_what(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text("{}\n")
    base = make(tmp_path / "run" / "base", stage="pretrain")
    assert base.parents == ()
    made = make(
        tmp_path / "run" / "sft",
        recipe={"policy": "x", "hub": {"hf_token": "hush", "max_tokens": 5, "eos_token": "</s>"}},
        parents=[tmp_path / "run" / "base"],
        inputs=[data, Path("hf:owner/name:train")],
        metrics={"loss": 1.5, "bad": float("nan")},
    )
    out = tmp_path / "run" / "sft"
    assert read_manifest(out, verify=True) == made
    assert made.files == {"sub/a.txt": hashlib.sha256(b"x").hexdigest()}
    digest = hashlib.sha256((tmp_path / "run/base/manifest.json").read_bytes()).hexdigest()
    assert made.parents == ({"name": "base", "path": "../base", "sha256": digest},)
    assert made.inputs == (
        {"path": str(data.resolve()), "sha256": hashlib.sha256(b"{}\n").hexdigest()},
        {"path": "hf:owner/name:train", "sha256": None},
    )
    assert made.recipe["hub"] == {"hf_token": "***", "max_tokens": 5, "eos_token": "</s>"}
    assert "hush" not in (out / "manifest.json").read_text()
    assert made.metrics == {"loss": 1.5, "bad": None}
    assert (made.stage, made.name, made.seed, made.format) == ("sft", "sft", 3, 1)
    assert not list((tmp_path / "run").glob("*.partial")) + list((tmp_path / "run").glob("*.old"))


def test_a_run_folder_may_be_moved(tmp_path: Path) -> None:
    make(tmp_path / "run" / "base")
    make(tmp_path / "run" / "sft", parents=[tmp_path / "run" / "base"])
    (tmp_path / "run").rename(tmp_path / "moved")
    assert [m.name for m in lineage(tmp_path / "moved" / "sft")] == ["sft", "base"]
    assert is_finished(tmp_path / "moved" / "sft", "sft", {"a": 1})


def test_lineage_walks_a_diamond_once(tmp_path: Path) -> None:
    run = tmp_path
    make(run / "base")
    make(run / "left", parents=[run / "base"])
    make(run / "right", parents=[run / "base"])
    make(run / "top", parents=[run / "left", run / "right"])
    assert [(depth, path.name) for depth, path, _ in ancestors(run / "top")] == [
        (0, "top"), (1, "left"), (1, "right"), (2, "base"),
    ]  # fmt: skip
    shutil.rmtree(run / "right")
    assert [m.name for m in lineage(run / "top")] == ["top", "left", "base"]


def test_a_model_folder_from_elsewhere_can_be_a_parent(tmp_path: Path) -> None:
    model = tmp_path / "hf"
    write_text(model / "config.json", "{}")
    made = make(tmp_path / "sft", parents=[model])
    assert made.parents[0]["sha256"] == artifacts.folder_digest(model)
    assert is_finished(tmp_path / "sft", "sft", {"a": 1})
    write_text(model / "config.json", "{ }")
    assert not is_finished(tmp_path / "sft", "sft", {"a": 1})


def test_finished_means_unchanged_recipe_parents_and_inputs(tmp_path: Path) -> None:
    base, out, data = tmp_path / "base", tmp_path / "out", tmp_path / "d.txt"
    data.write_text("1")
    make(base)
    recipe = {"a": 1, "b": {"c": 2, "d": [1, 2]}}
    assert not is_finished(out, "sft", recipe)
    make(out, recipe=recipe, parents=[base], inputs=[data])
    assert is_finished(out, "sft", {"b": {"d": [1, 2], "c": 2}, "a": 1})
    assert is_finished(out, "sft", recipe, [base], [data])
    assert not is_finished(out, "ppo", recipe)
    assert not is_finished(out, "sft", {**recipe, "a": 2})
    assert not is_finished(out, "sft", {**recipe, "b": {"c": 2, "d": [2, 1]}})
    assert not is_finished(out, "sft", recipe, [], [data])
    assert not is_finished(out, "sft", recipe, [base], [])
    data.write_text("2")
    assert not is_finished(out, "sft", recipe)
    data.write_text("1")
    assert is_finished(out, "sft", recipe)
    make(base, text="other")
    assert not is_finished(out, "sft", recipe)
    shutil.rmtree(base)
    assert not is_finished(out, "sft", recipe)


def test_a_folder_that_lost_a_file_is_not_finished(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out/sub/a.txt").unlink()
    assert not is_finished(tmp_path / "out", "sft", {"a": 1})
    with pytest.raises(ArtifactError, match=r"incomplete: sub/a\.txt"):
        read_manifest(tmp_path / "out")


def test_altered_files_are_named(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out/sub/a.txt").write_text("y")
    read_manifest(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"sub/a\.txt: altered"):
        read_manifest(tmp_path / "out", verify=True)


def test_mistaken_folders_are_explained(tmp_path: Path) -> None:
    make(tmp_path / "reward-safety")
    with pytest.raises(ArtifactError, match=r"no such artifact folder \(did you mean 'reward-safety'\?\)"):
        read_manifest(tmp_path / "reward-safty")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"it has no manifest\.json"):
        read_manifest(tmp_path / "empty")
    path = tmp_path / "reward-safety" / "manifest.json"
    good = path.read_text()
    for text, said in [
        ("{", "not JSON"),
        ("[]", "format: found 'list', expected 1"),
        (good.replace('"format": 1', '"format": 2'), "format: found 2, expected 1"),
        (good.replace('"seed"', '"sead"'), "sead, seed"),
    ]:
        path.write_text(text)
        with pytest.raises(ArtifactError, match=said):
            read_manifest(tmp_path / "reward-safety")


def test_a_failed_build_leaves_the_old_artifact(tmp_path: Path) -> None:
    old = make(tmp_path / "out")

    def fail() -> None:
        with building(tmp_path / "out") as folder:
            write_text(folder / "b.txt", "half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert read_manifest(tmp_path / "out", verify=True) == old
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_new_artifact_replaces_the_old_one_whole(tmp_path: Path) -> None:
    with building(tmp_path / "out") as folder:
        write_text(folder / "only-old.txt", "1")
        publish(folder, tmp_path / "out", stage="sft", name="out", recipe={}, seed=0)
    make(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "sub"]


KILLED_RENAME = """
import os, signal, sys
from pathlib import Path
from align.artifacts import building, publish, write_text
out, survive = Path(sys.argv[1]), int(sys.argv[2])
rename, calls = Path.rename, []
def killing(self, target):
    if len(calls) == survive:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(self)
    return rename(self, target)
Path.rename = killing
with building(out) as folder:
    write_text(folder / "sub" / "a.txt", "new")
    publish(folder, out, stage="sft", name="out", recipe={"a": 1}, seed=3)
"""


@pytest.mark.parametrize("survive", [0, 1])
def test_killed_between_the_renames_the_complete_new_one_stands(tmp_path: Path, survive: int) -> None:
    """Killed before the old folder moved aside, and between that and the new one's move into its place."""
    out = tmp_path / "out"
    make(out, text="old")
    run = subprocess.run([sys.executable, "-c", KILLED_RENAME, str(out), str(survive)])
    assert run.returncode == -9
    assert out.exists() == (survive == 0)
    read_manifest(out, verify=True)
    assert (out / "sub/a.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_killed_before_the_manifest_the_old_one_stands(tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = make(out, text="old")
    write_text(tmp_path / "out.partial" / "sub" / "a.txt", "new")
    assert read_manifest(out, verify=True) == old
    with building(out) as folder:
        assert list(folder.iterdir()) == []
        write_text(folder / "c.txt", "c")
        publish(folder, out, stage="sft", name="out", recipe={}, seed=0)
    assert set(read_manifest(out).files) == {"c.txt"}


def test_work_lies_beside_the_artifacts() -> None:
    assert work_dir(Path("runs/world/sft")) == Path("runs/world/work/sft")
