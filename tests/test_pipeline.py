from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from align.artifacts import read_manifest
from align.errors import RecipeError, TrainingError
from align.pipeline import load_pipeline, run
from align.runner import load_task
from tests.fake_stages import command, register, write_pipeline


@pytest.fixture(autouse=True)
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch.setitem)


def ran(path: Path, *overrides: str) -> list[str]:
    """Run a pipeline; the stages that were made."""
    said: list[str] = []
    run(load_pipeline(path, overrides), said.append)
    return [line.split("] ")[1].split(":")[0] for line in said if " GiB" in line]


def test_stages_run_in_order_with_references_and_interpolation(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path)
    said: list[str] = []
    run(load_pipeline(path), said.append)
    out = tmp_path / "run"
    assert (out / "one/count.txt").read_text() == "2 from 0"
    assert (out / "both/joined.txt").read_text() == "one,two"
    assert read_manifest(out / "one").seed == 7
    assert [entry["path"] for entry in read_manifest(out / "both").parents] == ["../one", "../two"]
    assert [entry["path"] for entry in read_manifest(out / "both").inputs] == ["../one/count.txt"]
    starts = [line for line in said if line.endswith((": count", ": join"))]
    assert starts == ["[1/4] one: count", "[2/4] two: count", "[3/4] both: join", "[4/4] last: join"]
    state = json.loads((out / "pipeline.json").read_text())
    assert [(name, s["state"]) for name, s in state["stages"].items()] == [
        ("one", "finished"), ("two", "finished"), ("both", "finished"), ("last", "finished"),
    ]  # fmt: skip
    assert all(s["seconds"] >= 0 and s["peak_gib"] > 0.01 for s in state["stages"].values())
    assert state["recipe"]["stages"]["one"]["set"]["seed"] == 7


def test_what_is_finished_is_skipped_and_keeps_its_times(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path)
    assert ran(path) == ["one", "two", "both", "last"]
    before = json.loads((tmp_path / "run/pipeline.json").read_text())
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").glob("*/manifest.json")}
    said: list[str] = []
    run(load_pipeline(path), said.append)
    assert [line for line in said if "skipped" in line] == [
        f"[{i}/4] {name}: finished and unchanged, skipped" for i, name in enumerate(["one", "two", "both", "last"], 1)
    ]
    assert json.loads((tmp_path / "run/pipeline.json").read_text()) == before
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_a_change_reruns_what_lies_downstream_of_it(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path)
    ran(path)
    assert ran(path, "stages.two.set.steps=4") == ["two", "both", "last"]
    assert ran(path, "stages.two.set.steps=4") == []
    assert ran(path, "stages.two.set.steps=4", "stages.last.set.label=x") == ["last"]
    (tmp_path / "input.txt").write_text("b")
    assert ran(path, "stages.two.set.steps=4", "stages.last.set.label=x") == ["two", "both", "last"]
    assert ran(path, "stages.two.set.steps=4", "stages.last.set.label=x", "seed=8") == ["one", "both", "last"]
    (tmp_path / "run/both/joined.txt").unlink()
    assert ran(path, "stages.two.set.steps=4", "stages.last.set.label=x", "seed=8") == ["both", "last"]


def test_an_override_reaches_a_dotted_key_of_set(tmp_path: Path) -> None:
    (tmp_path / "nested.yaml").write_text("stage: join\nparents: []\nfiles: {}\nlabel: a\n")
    stages = '  one: {recipe: nested.yaml, set: {"files.x": "@zero/y", label: b}}\n'
    path = write_pipeline(tmp_path, "  zero: {recipe: count.yaml, set: {steps: 1}}\n" + stages)
    plain = load_pipeline(path, ["stages.one.set.files.x=here", "stages.one.set.files.z=there"]).tasks[1].plain
    assert plain["files"] == {"x": "here", "z": "there"}
    assert plain["label"] == "b"
    assert load_pipeline(path).tasks[1].plain["files"] == {"x": f"{tmp_path}/run/zero/y"}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("a: {recipe: join.yaml, set: {parents: ['@b']}}", "stages.a.set.parents.0: '@b': no earlier stage"),
        (
            "sft: {recipe: count.yaml, set: {steps: 1}}\nb: {recipe: join.yaml, set: {parents: ['@sftt']}}",
            "'@sftt': no earlier stage of that name (did you mean 'sft'?); there are sft",
        ),
        (
            "b: {recipe: join.yaml, set: {parents: ['@sft']}}\nsft: {recipe: count.yaml, set: {steps: 1}}",
            "stages.b.set.parents.0: '@sft': the stage 'sft' does not come before this one",
        ),
        ("b: {recipe: join.yaml, set: {parents: ['@b']}}", "the stage 'b' does not come before this one"),
        ("a: {recipe: cuont.yaml}", "cuont.yaml: no such recipe (did you mean 'count.yaml'?)"),
        ("a: {recipe: count.yaml}", "count.yaml (stage a): steps: must be given"),
        ("a: {recipe: count.yaml, set: {step: 1}}", "(stage a): step: unknown key (did you mean 'steps'?)"),
        ("a: {recip: count.yaml}", "pipeline.yaml: stages.a.recip: unknown key (did you mean 'recipe'?)"),
        ("a/b: {recipe: count.yaml, set: {steps: 1}}", "'a/b': a stage's name is letters, digits, - and _"),
        ("work: {recipe: count.yaml, set: {steps: 1}}", "and not 'work'"),
        ("{}", "stages: Dictionary should have at least 1 item"),
        ("a: {recipe: count.yaml, set: {steps: '${sed}'}}", "key 'sed' not found (did you mean 'seed'?)"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path: Path, stages: str, message: str) -> None:
    path = write_pipeline(tmp_path, "".join(f"  {line}\n" for line in stages.split("\n")))
    with pytest.raises(RecipeError) as caught:
        load_pipeline(path)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_stage_is_left_out_by_null(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path)
    assert ran(path, "stages.last=null") == ["one", "two", "both"]
    with pytest.raises(RecipeError, match=r"stages\.lst: no stage of that name to leave out \(did you mean 'last'\?\)"):
        load_pipeline(path, ["stages.lst=null"])
    with pytest.raises(RecipeError, match=r"'@two.*': no earlier stage of that name"):
        load_pipeline(path, ["stages.two=null"])


def test_a_stage_is_no_pipeline_and_the_other_way_round(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path)
    with pytest.raises(RecipeError, match="recipe of one stage: `align run"):
        load_pipeline(tmp_path / "count.yaml")
    with pytest.raises(RecipeError, match="this is a pipeline: `align pipeline"):
        load_task(path)


def test_a_failure_is_passed_on_and_the_next_start_goes_on(tmp_path: Path) -> None:
    stages = "  one: {recipe: count.yaml, set: {steps: 4}}\n"
    path = write_pipeline(tmp_path, stages)
    with pytest.raises(TrainingError, match="NaN"):
        run(load_pipeline(path, ["stages.one.set.fail_at=2"]), print)
    state = json.loads((tmp_path / "run/pipeline.json").read_text())["stages"]["one"]
    assert state["state"] == "failed"
    assert not (tmp_path / "run/.lock").exists()
    assert (tmp_path / "run/work/one/step-1").exists()


def test_no_secret_is_written_into_the_state(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, '  one: {recipe: count.yaml, set: {steps: 1, source: "${data}/input.txt"}}\n')
    pipeline = load_pipeline(path)
    pipeline.plain["stages"]["one"]["set"]["hub_token"] = "hush-hush"
    run(pipeline, print)
    assert "hush-hush" not in (tmp_path / "run/pipeline.json").read_text()


def test_the_command_ends_with_the_path_of_its_report(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path)
    done = subprocess.run(command("pipeline", str(path), "watts=50"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path}/run/report.html"
    page = (tmp_path / "run/report.html").read_text()
    assert "4 of 4 stages finished" in page
    assert "50 W stated" in page
    again = subprocess.run(command("report", str(tmp_path / "run"), "--out", f"{tmp_path}/p.html"), capture_output=True)
    assert (again.returncode, again.stdout.decode().strip()) == (0, f"{tmp_path}/p.html")
    missing = subprocess.run(command("report", str(tmp_path / "rum")), capture_output=True, text=True)
    assert missing.returncode == 2
    assert missing.stderr == f"error: {tmp_path}/rum: no such folder (did you mean 'run'?)\n"
