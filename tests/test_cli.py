"""Exit codes, one line a mistake, nothing heavy where it is not needed."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from align.artifacts import write_jsonl
from tests.commandline import TURN, align, here, make_policy, make_recipe, refused, refused_as_typed


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("shelf") / "policy")


@pytest.fixture
def recipe(tmp_path: Path, policy: Path) -> Path:
    return make_recipe(tmp_path, policy)


def quickest(command: Callable[[], subprocess.CompletedProcess[str]]) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Seconds of a processor that the quicker of two runs took: as long as it takes on an idle machine."""
    took = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = command()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took), done


def test_help_lists_the_verbs_quickly() -> None:
    seconds, done = quickest(lambda: align("--help"))
    assert done.returncode == 0
    for verb in ("run", "pipeline", "check", "show", "chat", "world", "convert", "mask"):
        assert f"\n  {verb} " in done.stdout
    assert seconds < 0.5


def test_the_version_is_the_packages() -> None:
    done = align("--version")
    assert (done.returncode, done.stdout) == (0, f"align {version('align')}\n")


def test_nothing_heavy_is_imported_by_a_check(recipe: Path) -> None:
    code = (
        "import sys; sys.argv = ['align', 'check', sys.argv[1]]\n"
        "from align.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = ('torch', 'deepspeed', 'ray', 'transformers', 'datasets', 'trl', 'peft', 'sentencepiece')\n"
        "assert not [name for name in heavy if name in sys.modules], [n for n in heavy if n in sys.modules]"
    )
    done = subprocess.run([sys.executable, "-c", code, str(recipe)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_check_tells_rows_parents_and_memory_within_two_seconds(recipe: Path, policy: Path) -> None:
    seconds, done = quickest(lambda: align("check", recipe, "batch.rows=16"))
    assert seconds < 2
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{recipe}: sft: the recipe is good"
    assert lines[1].startswith(f"  policy: {policy}: artifact of pretrain, ")
    assert lines[2] == f"  data.0.path: {recipe.parent / 'sft.jsonl'}: 3 rows"
    assert lines[3].startswith("  memory of each process: 0.00 GiB (training 0.00)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["polcy=x"], "polcy: unknown key (did you mean 'policy'?)"),
        (["optim.lrr=1"], "optim.lrr: unknown key (did you mean 'lr'?)"),
        (["optim.lr=fast"], "optim.lr: expected a valid number, found 'fast'"),
        (["optim.lr=-1"], "optim.lr: expected greater than or equal to 0, found -1"),
        (["zero.stage=4"], "zero.stage: expected 0, 1, 2 or 3, found 4"),
        (["zero.offload_params=true"], "zero: offload_params needs stage 3"),
        (["overlong=cutt"], "expected 'error', 'cut' or 'skip' (did you mean 'cut'?), found 'cutt'"),
        (["stage=stf"], "stage: no stage 'stf' (did you mean 'sft'?)"),
        (["seed"], "'seed': expected key=value"),
        (["seed=[1"], "'seed=[1': the value is not YAML"),
        (["policy=???"], "policy: must be given (key=value or in the recipe)"),
    ],
)
def test_mistakes_in_a_recipe_are_one_line_and_exit_code_2(recipe: Path, arguments: list[str], message: str) -> None:
    assert message in refused("run", recipe, f"out={recipe.parent}/out", *arguments)
    assert not (recipe.parent / "out").exists()


def test_a_recipe_that_is_not_there(recipe: Path) -> None:
    assert "no such recipe (did you mean 'sft.yaml'?)" in refused("run", recipe.with_name("sfft.yaml"))
    assert "no such recipe" in refused("check", "nowhere.yaml")
    assert "this is the recipe of one stage: `align run" in refused("pipeline", recipe)
    assert "out: must be given" in refused("run", recipe)


def test_missing_data_and_parents_are_named(recipe: Path, policy: Path) -> None:
    parent = recipe.parent
    said = refused("check", recipe, f"data.0.path={parent}/stf.jsonl")
    assert f"data.0.path: {parent}/stf.jsonl: no such file (did you mean 'sft.jsonl'?)" in said
    assert "no such model folder (did you mean 'policy'?)" in refused("check", recipe, f"policy={policy.parent}/polic")
    (parent / "empty").mkdir()
    assert "no config.json" in refused("check", recipe, f"policy={parent}/empty")


def test_run_names_a_bad_row_and_leaves_no_artifact(recipe: Path) -> None:
    (recipe.parent / "sft.jsonl").write_text("{\n")
    assert "sft.jsonl:1: not JSON" in refused_as_typed("run", recipe, f"out={recipe.parent}/out")
    assert not (recipe.parent / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"messages": 3}', "sft.jsonl:2: messages: "),
        ('{"messages": [{"role": "usr", "content": "a"}]}', "sft.jsonl:2: messages.0.role: "),
        ("{", "sft.jsonl:2: not JSON"),
    ],
)
def test_a_bad_row_is_named(recipe: Path, row: str, message: str) -> None:
    data = recipe.parent / "sft.jsonl"
    data.write_text(json.dumps({"messages": TURN}) + "\n" + row + "\n")
    assert message in refused("check", recipe)


def test_bad_rows_can_be_counted_and_set_aside(recipe: Path) -> None:
    data = recipe.parent / "sft.jsonl"
    data.write_text("{\n" + json.dumps({"messages": TURN}) + "\n[]\n")
    done = here("check", recipe, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert f"sft.jsonl: 1 rows, 2 bad ones set aside in {data}.bad.jsonl" in done.stdout
    aside = [json.loads(line) for line in Path(f"{data}.bad.jsonl").read_text().splitlines()]
    assert [row["line"] for row in aside] == [1, 3]


def test_a_tag_in_a_prompt_is_refused(recipe: Path) -> None:
    turns = [{"role": "user", "content": "Hi [/INST] there"}, TURN[1]]
    write_jsonl(recipe.parent / "sft.jsonl", [{"messages": turns}])
    assert "[/INST]" in refused("check", recipe)


def test_check_goes_on_to_the_next_recipe_and_tells_every_mistake(recipe: Path) -> None:
    bad = recipe.with_name("bad.yaml")
    bad.write_text("stage: sft\nsed: 3\n")
    done = here("check", bad, recipe)
    assert done.returncode == 2
    assert "the recipe is good" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "sed: unknown key (did you mean 'seed'?)" in done.stderr
    assert "policy: missing" in done.stderr


def test_a_mistyped_verb_or_option() -> None:
    done = align("chekc")
    assert done.returncode == 2
    assert "No such command 'chekc'" in done.stderr
    assert "check" in done.stderr
    assert here("check").returncode == 2
    assert here("check", "seed=3").returncode == 2


def test_world_and_convert_take_values_or_a_recipe(tmp_path: Path) -> None:
    assert "peple: unknown key (did you mean 'people'?)" in refused("world", f"out={tmp_path}/w", "peple=3")
    assert "stage: found 'sft', expected 'world'" in refused("world", "stage=sft")
    assert "jobs: missing" in refused("convert", f"out={tmp_path}/c")
    rows = [{"instruction": f"Say {n}.", "context": "", "response": f"{n}", "category": "x"} for n in range(20)]
    write_jsonl(tmp_path / "dolly.jsonl", rows)
    job = f"jobs=[{{format: dolly, path: {tmp_path}/dolly.jsonl, to: dialogues, out: sft}}]"
    done = align("convert", job, f"out={tmp_path}/c")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c/sft.jsonl").is_file()
    assert f"{tmp_path}/c: " in done.stdout
    assert "finished and unchanged, skipped" in here("convert", job, f"out={tmp_path}/c").stdout


def test_an_unforeseen_error_keeps_its_traceback() -> None:
    code = (
        "import align.commands.show as show, sys\n"
        "def broken(*_): raise ZeroDivisionError('ours')\n"
        "show.describe = broken\n"
        "sys.argv = ['align', 'show', '.']\n"
        "from align.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: ours" in done.stderr
