from __future__ import annotations

import importlib
import json
import typing
from pathlib import Path

import pytest

from align import runner
from align.artifacts import recipe_digest, write_json, write_text
from align.energy import Counter, EnergyMeter
from align.errors import RecipeError, RunError, TrainingError
from align.pipeline import load_pipeline, run
from align.runner import load_task, perform, sources
from tests.fake_stages import register, write_pipeline


@pytest.fixture(autouse=True)
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch.setitem)


def test_a_stage_recipe_s_own_mistakes(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    for text, message in [
        ("steps: 1", r"stage: missing; there are .*sft"),
        ("stage: rewardd", r"no stage 'rewardd' \(did you mean 'reward'\?\)"),
        ("stage: count", r"out: must be given"),
        ("stage: count\nout: 3", r"out: expected a folder, found 3"),
    ]:
        recipe.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_task(recipe)


def test_unfinished_work_of_the_same_recipe_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 4, source: input.txt}}\n")
    monkeypatch.chdir(tmp_path)
    broken = ["stages.one.set.fail_at=2"]
    with pytest.raises(TrainingError):
        run(load_pipeline(path, broken), print)
    write_text(tmp_path / "run/work/one/step-2", "done")  # what stood in the way is gone
    said: list[str] = []
    run(load_pipeline(path, broken), said.append)
    assert (tmp_path / "run/one/count.txt").read_text() == "4 from 3"
    assert f"one: goes on with the work in {tmp_path}/run/work/one" in said


@pytest.mark.parametrize("change", ["recipe", "input"])
def test_unfinished_work_of_another_recipe_or_input_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 4, source: input.txt}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError):
        run(load_pipeline(path, ["stages.one.set.fail_at=2"]), print)
    if change == "input":
        (tmp_path / "input.txt").write_text("other")
        with pytest.raises(TrainingError):
            run(load_pipeline(path, ["stages.one.set.fail_at=2"]), print)
        assert len(list((tmp_path / "run/work/one").glob("step-*"))) == 2
    else:
        run(load_pipeline(path), print)
        assert (tmp_path / "run/one/count.txt").read_text() == "4 from 0"
    assert len(list((tmp_path / "run/work/one.stale").glob("step-*"))) == 2


def test_a_stage_that_leaves_no_artifact_is_an_error(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 1, leave_nothing: true}}\n")
    with pytest.raises(RunError, match="one: the stage count ended without leaving an artifact"):
        run(load_pipeline(path), print)


def test_what_a_stage_took_is_counted_over_its_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joules = iter([0.0, 360.0, 1000.0, 1036.0])
    counter = Counter("RAPL package-0", lambda: next(joules))
    monkeypatch.setattr(runner, "EnergyMeter", lambda: EnergyMeter([counter]))
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 3, nap: 0.05}}\n")
    usage = tmp_path / "run/work/one/usage.json"
    with pytest.raises(TrainingError):
        run(load_pipeline(path, ["stages.one.set.fail_at=2"]), print)
    first = json.loads(usage.read_text())
    assert first["joules"] == {"RAPL package-0": 360.0}
    assert first["seconds"] >= 0.1
    (tmp_path / "run/work/one/recipe.json").unlink()  # as if the same recipe had been interrupted
    record = {"stage": "count", "recipe_sha256": recipe_digest(load_pipeline(path).tasks[0].plain), "sources": {}}
    write_json(tmp_path / "run/work/one/recipe.json", record)
    run(load_pipeline(path), print)
    both = json.loads(usage.read_text())
    assert both["joules"] == {"RAPL package-0": 396.0}
    assert both["seconds"] >= first["seconds"] + 0.05
    assert both["peak_gib"] >= first["peak_gib"] > 0


def test_one_stage_alone(tmp_path: Path) -> None:
    write_pipeline(tmp_path)
    task = load_task(tmp_path / "count.yaml", ["steps=2", f"out={tmp_path}/alone"])
    assert "out" not in task.plain
    assert perform(task, print).made
    assert not perform(task, print).made
    assert perform(load_task(tmp_path / "count.yaml", ["steps=3", f"out={tmp_path}/alone"]), print).made
    assert (tmp_path / "alone/count.txt").read_text() == "3 from 0"


def test_sources_are_files_and_model_folders_not_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(Path("local/big.bin"), "x")
    write_text(Path("model/config.json"), "{}")
    write_text(Path("d.jsonl"), "{}")
    found = sources({"kind": "local", "policy": "model", "data": [{"path": "d.jsonl"}], "gone": "e.jsonl", "n": 3})
    assert set(found) == {"model", "d.jsonl"}


def test_every_stage_of_the_registry_can_be_imported_and_offers_recipe_and_run() -> None:
    for name, module in runner.STAGES.items():
        if not module.startswith("fake_"):
            found = importlib.import_module(module)
            assert typing.get_args(typing.get_type_hints(found.Recipe)["stage"]) == (name,)
            assert callable(found.run)
