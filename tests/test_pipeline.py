"""Pipelines of fake stages: `count` leaves a file a step in its work folder; `join` has parents."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

from align import lock, runner
from align.artifacts import building, publish, read_manifest, work_dir, write_text
from align.config import config, to_plain
from align.errors import LaunchError, RecipeError, RunError, TrainingError
from align.pipeline import load_pipeline, run
from align.runner import STAGES, load_task, perform, sources
from align.usage import PeakMemory


@config
class CountRecipe:
    stage: Literal["count"]
    seed: int = 0
    steps: int = 3
    nap: float = 0.0
    source: str | None = None
    fail_at: int | None = None
    leave_nothing: bool = False


def count(recipe: CountRecipe, out: Path) -> None:
    work = work_dir(out)
    done = len(list(work.glob("step-*")))
    for step in range(done, recipe.steps):
        if step == recipe.fail_at:
            raise TrainingError("loss is NaN")
        time.sleep(recipe.nap)
        write_text(work / f"step-{step}", "done")
    if recipe.leave_nothing:
        return
    with building(out) as folder:
        write_text(folder / "count.txt", f"{recipe.steps} from {done}")
        publish(
            folder, out, stage="count", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            inputs=[Path(recipe.source)] if recipe.source else [],
        )  # fmt: skip


@config
class JoinRecipe:
    stage: Literal["join"]
    seed: int = 0
    parents: list[str]
    files: dict[str, str] = pydantic.Field(default_factory=dict)
    label: str = ""


def join(recipe: JoinRecipe, out: Path) -> None:
    parents = [Path(parent) for parent in recipe.parents]
    with building(out) as folder:
        write_text(folder / "joined.txt", ",".join(parent.name for parent in parents) + recipe.label)
        publish(
            folder, out, stage="join", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=parents, inputs=[Path(path) for path in recipe.files.values()],
        )  # fmt: skip


def register(set_item: Callable[[Any, str, Any], None]) -> None:
    for name, recipe, body in [("count", CountRecipe, count), ("join", JoinRecipe, join)]:
        module = types.ModuleType(f"fake_{name}")
        module.Recipe, module.run = recipe, body  # type: ignore[attr-defined]
        set_item(sys.modules, f"fake_{name}", module)
        set_item(STAGES, name, f"fake_{name}")


@pytest.fixture(autouse=True)
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch.setitem)


def write_pipeline(folder: Path, stages: str | None = None) -> Path:
    (folder / "count.yaml").write_text("stage: count\nseed: 0\nsteps: ???\n")
    (folder / "join.yaml").write_text("stage: join\nparents: ???\n")
    path = folder / "pipeline.yaml"
    path.write_text(
        f"pipeline: test\nout: {folder}/run\nseed: 7\ndata: {folder}\nstages:\n"
        + (
            stages
            or """
  one: {recipe: count.yaml, set: {seed: "${seed}", steps: 2}}
  two: {recipe: count.yaml, set: {steps: 3, source: "${data}/input.txt"}}
  both:
    recipe: join.yaml
    set:
      parents: ["@one", "@two"]
      files: {text: "@one/count.txt"}
  last: {recipe: join.yaml, set: {parents: ["@both"]}}
"""
        )
    )
    (folder / "input.txt").write_text("a")
    return path


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
        f"[{i}/4] {name}: finished and unchanged, skipped"
        for i, name in enumerate(["one", "two", "both", "last"], 1)
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
    plain = (
        load_pipeline(path, ["stages.one.set.files.x=here", "stages.one.set.files.z=there"]).tasks[1].plain
    )
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


def test_a_stage_is_no_pipeline_and_the_other_way_round(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path)
    with pytest.raises(RecipeError, match="recipe of one stage: `align run"):
        load_pipeline(tmp_path / "count.yaml")
    with pytest.raises(RecipeError, match="this is a pipeline: `align pipeline"):
        load_task(path)


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


def test_a_failure_is_passed_on_and_the_next_start_goes_on(tmp_path: Path) -> None:
    stages = "  one: {recipe: count.yaml, set: {steps: 4}}\n"
    path = write_pipeline(tmp_path, stages)
    with pytest.raises(TrainingError, match="NaN"):
        run(load_pipeline(path, ["stages.one.set.fail_at=2"]), print)
    state = json.loads((tmp_path / "run/pipeline.json").read_text())["stages"]["one"]
    assert state["state"] == "failed"
    assert not (tmp_path / "run/.lock").exists()
    assert (tmp_path / "run/work/one/step-1").exists()


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


def test_one_stage_alone(tmp_path: Path) -> None:
    write_pipeline(tmp_path)
    task = load_task(tmp_path / "count.yaml", ["steps=2", f"out={tmp_path}/alone"])
    assert "out" not in task.plain
    assert perform(task, print).made
    assert not perform(task, print).made
    assert perform(load_task(tmp_path / "count.yaml", ["steps=3", f"out={tmp_path}/alone"]), print).made
    assert (tmp_path / "alone/count.txt").read_text() == "3 from 0"


def test_sources_are_files_and_model_folders_not_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(Path("local/big.bin"), "x")
    write_text(Path("model/config.json"), "{}")
    write_text(Path("d.jsonl"), "{}")
    found = sources(
        {"kind": "local", "policy": "model", "data": [{"path": "d.jsonl"}], "gone": "e.jsonl", "n": 3}
    )
    assert set(found) == {"model", "d.jsonl"}


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import test_pipeline
test_pipeline.register(lambda mapping, key, value: mapping.__setitem__(key, value))
sys.argv = ["align", *sys.argv[2:]]
from align.cli import main
main()
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", DRIVER, str(Path(__file__).parent), *arguments]


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if found():
            return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    raise AssertionError("it never came so far")


def test_killed_in_a_stage_the_same_command_finishes(tmp_path: Path) -> None:
    stages = (
        "  one: {recipe: count.yaml, set: {steps: 2}}\n"
        "  two: {recipe: count.yaml, set: {steps: 20, nap: 0.05}}\n"
        "  both: {recipe: join.yaml, set: {parents: ['@one', '@two']}}\n"
    )
    path = write_pipeline(tmp_path, stages)
    steps = tmp_path / "run/work/two"
    for target in (3, 8):  # killed twice, at different places
        with subprocess.Popen(
            command("pipeline", str(path)), stdout=subprocess.DEVNULL, text=True
        ) as process:
            wait_for(lambda n=target: len(list(steps.glob("step-*"))) >= n, process)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
        assert (tmp_path / "run/.lock").exists()
        assert json.loads((tmp_path / "run/pipeline.json").read_text())["stages"]["two"]["state"] == "running"
    done = len(list(steps.glob("step-*")))
    assert 8 <= done < 20
    last = subprocess.run(command("pipeline", str(path)), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert "[1/3] one: finished and unchanged, skipped" in last.stdout
    assert (tmp_path / "run/two/count.txt").read_text() == f"20 from {done}"
    assert (tmp_path / "run/both/joined.txt").read_text() == "one,two"
    assert not (tmp_path / "run/.lock").exists()


def test_interrupted_it_says_so_and_exits_130(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, "  two: {recipe: count.yaml, set: {steps: 500, nap: 0.05}}\n")
    with subprocess.Popen(command("pipeline", str(path)), stdout=-3, stderr=-1, text=True) as process:
        wait_for((tmp_path / "run/work/two/step-1").exists, process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "interrupted; the same command resumes\n")
    assert json.loads((tmp_path / "run/pipeline.json").read_text())["stages"]["two"]["state"] == "interrupted"
    assert not (tmp_path / "run/.lock").exists()


def test_a_run_failure_exits_1_with_one_line(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 2, fail_at: 1}}\n")
    done = subprocess.run(command("pipeline", str(path)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: loss is NaN\n")


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, "  one: {recipe: count.yaml, set: {steps: 500, nap: 0.05}}\n")
    with subprocess.Popen(command("pipeline", str(path)), stdout=subprocess.DEVNULL, text=True) as process:
        try:
            wait_for((tmp_path / "run/work/one/step-0").exists, process)
            with pytest.raises(LaunchError, match=f"process {process.pid} works in this folder"):
                run(load_pipeline(path), print)
            task = load_task(tmp_path / "count.yaml", ["steps=2", f"out={tmp_path}/run/one"])
            with pytest.raises(LaunchError, match="works in this folder"):
                perform(task, print)
        finally:
            process.kill()


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def held_by(path: Path, **changes: Any) -> None:
    holder = {"pid": os.getpid(), "started": lock._started(os.getpid()), "host": lock.socket.gethostname()}
    path.write_text(json.dumps({**holder, **changes}))


def test_locks(tmp_path: Path, dead_pid: int) -> None:
    path = tmp_path / "a.lock"
    held_by(path)
    with pytest.raises(LaunchError, match="works in this folder"), lock.locked(path):
        pass
    held_by(path, host="elsewhere")
    with pytest.raises(LaunchError, match=r"on elsewhere .* delete .*a\.lock"), lock.locked(path):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.lock"]
    for stale in ({"pid": dead_pid}, {"started": "1"}):  # ended, or its number was given to another process
        held_by(path, **stale)
        with lock.locked(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert list(tmp_path.iterdir()) == []


def test_a_zombie_holds_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    held_by(tmp_path / "a.lock", pid=process.pid, started=lock._started(process.pid))
    for _ in range(500):
        if lock._started(process.pid) is None:
            break
        time.sleep(0.01)
    with lock.locked(tmp_path / "a.lock"):
        pass
    process.wait()


CONTEND = """
import os, sys, time
from pathlib import Path
from align.errors import LaunchError
from align.lock import locked
folder, gate = Path(sys.argv[1]), float(sys.argv[2])
while time.time() < gate:
    pass
try:
    with locked(folder / "a.lock"):
        os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
        time.sleep(0.3)
        (folder / "inside").unlink()
        print("held")
except LaunchError:
    print("refused")
"""


def test_a_stale_lock_is_taken_by_one_run_alone(tmp_path: Path, dead_pid: int) -> None:
    held_by(tmp_path / "a.lock", pid=dead_pid)
    gate = str(time.time() + 1.5)
    run_one = [sys.executable, "-c", CONTEND, str(tmp_path), gate]
    runs = [subprocess.Popen(run_one, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = sorted(run.communicate(timeout=30)[0].strip() for run in runs)
    assert said == ["held", "refused", "refused", "refused"]
    assert list(tmp_path.iterdir()) == []


def test_peak_memory_sees_this_process_and_its_children() -> None:
    with PeakMemory() as idle:
        pass
    with PeakMemory() as own:
        block = b"x" * (200 << 20)
        del block  # freed before anyone looked
    assert own.gib - idle.gib == pytest.approx(200 / 1024, abs=0.05)
    code = "b = b'x' * (300 << 20); print('', flush=True); input()"
    with PeakMemory() as both, subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        time.sleep(1.2)
        child.stdin.close()
    assert both.gib - idle.gib == pytest.approx(300 / 1024, abs=0.1)


def test_every_stage_of_the_registry_can_be_imported_and_offers_recipe_and_run() -> None:
    for name, module in runner.STAGES.items():
        if not module.startswith("fake_"):
            found = importlib.import_module(module)
            assert typing.get_args(typing.get_type_hints(found.Recipe)["stage"]) == (name,)
            assert callable(found.run)
