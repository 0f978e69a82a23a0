"""The house rules that a reader relies on, held by reading the source: layers, heavy packages, file sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.source import dotted, imports, tree, within

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "align"

# Lower never imports higher; siblings of one layer never import each other. The design's layers 0, 1, 5
# and 6 are drawn finer where one part stands on another: every `@config` class needs config, the model's too.
LAYERS = (
    ("errors", "records", "files", "stats", "usage", "progress", "energy", "allocator"),
    ("values", "lock", "provenance", "measures", "cluster"),
    ("config",),
    ("losses",),  # the model's head ends in one
    ("artifacts", "model"),
    ("data",),
    ("engine", "rollout", "world", "exams"),
    ("stages",),
    ("runner",),
    ("pipeline", "report"),
    ("commands",),
    ("cli", "__main__"),
)

# A package and the only files of align/ that may name it.
ONLY: dict[str, set[str]] = {
    "deepspeed": {"engine/zero.py", "engine/zero_state.py"},
    "torch.distributed": {"engine/dist.py"},
    "ray": {"rollout/actors.py", "engine/launch.py"},
    "transformers": {"rollout/transformers_reward.py"},
    "peft": {"model/lora.py"},
    "sentencepiece": {"data/tokenizer.py"},
    "vllm": {"rollout/vllm.py"},
    "wandb": {"engine/metrics.py"},
}

# Not at module level of any file that `align check` loads.
HEAVY = {
    "torch", "deepspeed", "ray", "transformers", "datasets", "sentencepiece",
    "trl", "peft", "tensorboard", "pandas", "pyarrow", "matplotlib", "vllm", "wandb",
}  # fmt: skip
CHECK_PATH = {
    "errors.py", "records.py", "stats.py", "config.py", "artifacts.py", "runner.py", "pipeline.py", "cli.py",
    "commands/check.py", "model/config.py", "model/memory.py", "data/schema.py", "engine/optim.py",
    "engine/zero.py", "engine/zero_state.py", "engine/launch.py", "engine/fit.py", "engine/checkpoint.py",
    "engine/metrics.py", "rollout/backend.py", "rollout/pool.py",
}  # fmt: skip

# file -> why it may have more than 300 lines
LONG: dict[str, str] = {}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def breaches_of_layers(path: Path) -> list[str]:
    """Imports of this file that go up, or sideways, in the house."""
    level = {part: index for index, layer in enumerate(LAYERS) for part in layer}
    own = name(path).split("/")[0].removesuffix(".py")
    if own == "__init__":
        return [f"{name(path)}:{i.line} imports {i.module}" for i in imports(path) if within(i.module, "align")]
    if own not in level:
        return [f"{name(path)}: {own} has no layer; give it one in LAYERS"]
    found = []
    for use in imports(path):
        parts = use.module.split(".")
        if parts[0] != "align" or len(parts) < 2 or parts[1] not in level or parts[1] == own:
            continue
        if level[parts[1]] >= level[own]:
            found.append(f"{name(path)}:{use.line} ({own}) imports {use.module}")
    return found


def breaches_of_only(path: Path) -> list[str]:
    """Heavy packages named, by import or attribute, where they may not be."""
    used = [(use.module, use.line) for use in imports(path)]
    used += [(dotted(node), node.lineno) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
    return [
        f"{name(path)}:{line} names {package}, which belongs in {sorted(files) or 'no file of align/'}"
        for package, files in ONLY.items()
        for module, line in used
        if within(module, package) and name(path) not in files
    ]


def on_check_path(path: Path) -> bool:
    """Files named above, every stage, and every file with a config class."""
    if name(path) in CHECK_PATH or name(path).startswith("stages/"):
        return True
    classes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))
    return any(dotted(mark) in ("config", "align.config.config") for c in classes for mark in c.decorator_list)


def module_files(module: str) -> Iterator[Path]:
    """The files of ours that `import module` runs: it, and every package above it."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        stem = REPO.joinpath(*parts[:end])
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.is_file():
                yield candidate


def heavy_when_imported(path: Path) -> list[str]:
    """Heavy imports that importing this file runs, each with the way there through other files."""
    module = ".".join(path.relative_to(REPO).with_suffix("").parts)
    queue = [(file, name(file)) for file in dict.fromkeys([path, *module_files(module)])]
    seen, found = {file for file, _ in queue}, []
    while queue:
        file, way = queue.pop()
        for use in imports(file):
            if use.deferred:
                continue
            if use.module.split(".")[0] in HEAVY:
                found.append(f"{way}:{use.line} imports {use.module}")
            elif within(use.module, "align"):
                for below in module_files(use.module):
                    if below not in seen:
                        seen.add(below)
                        queue.append((below, f"{way} -> {name(below)}"))
    return found


def test_lower_layers_import_no_higher_and_siblings_not_each_other() -> None:
    assert [breach for path in sources() for breach in breaches_of_layers(path)] == []


def test_heavy_packages_are_named_in_their_files_only() -> None:
    assert [breach for path in sources() for breach in breaches_of_only(path)] == []


def test_nothing_heavy_is_imported_on_the_way_of_align_check() -> None:
    assert [found for path in sources() if on_check_path(path) for found in heavy_when_imported(path)] == []


def test_importing_every_file_of_that_way_loads_no_torch() -> None:
    modules = [
        ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
        for path in sources()
        if on_check_path(path)
    ]
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        f"print([h for h in {sorted(HEAVY)!r} if h in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_file_has_more_than_300_lines_unless_listed_with_its_reason() -> None:
    folders = (PACKAGE, REPO / "tests", REPO / "benchmarks")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    long = {
        path.relative_to(REPO).as_posix(): lines
        for path in files
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert {file: lines for file, lines in long.items() if file not in LONG} == {}
    assert set(LONG) <= set(long), "a listed file has become short: take it off the list"


UNSAFE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.full_load",
    "yaml.unsafe_load", "eval", "exec",
}  # fmt: skip


# HumanEval's programs, in a process with nothing of ours in it, started only where a recipe says run_programs: true.
EXECUTES = {"exams/guarded.py"}


def test_nothing_is_unpickled_or_evaluated() -> None:
    found = []
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                called = dotted(node.func)
                if called == "exec" and name(path) in EXECUTES:
                    continue
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                pickled = given.get("allow_pickle", "False") != "False"
                if called in UNSAFE or pickled or (called == "torch.load" and given.get("weights_only") != "True"):
                    found.append(f"{name(path)}:{node.lineno} calls {called}")
            if isinstance(node, ast.ImportFrom) and node.module in {call.partition(".")[0] for call in UNSAFE}:
                found.append(f"{name(path)}:{node.lineno} imports from {node.module}, whose calls are not seen by name")
    assert found == []


# Where a process or a thread ends: what it died of must be told to another one, whatever it was.
LAST_WORDS = {"engine/worker.py", "engine/launch.py", "exams/guarded.py"}


def test_no_error_is_swallowed() -> None:
    """`except Exception` may tidy up and raise again, nothing else."""
    found = [
        f"{name(path)}:{node.lineno}"
        for path in sources()
        if name(path) not in LAST_WORDS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or dotted(node.type) in ("Exception", "BaseException"))
        and not isinstance(node.body[-1], ast.Raise)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("file", "source", "rule", "said"),
    [
        ("losses/a.py", "from align.engine import b", breaches_of_layers, "(losses) imports align.engine.b"),
        ("losses/a.py", "def f():\n    from align.model import b", breaches_of_layers, "losses/a.py:2"),
        ("data/a.py", "from align import world", breaches_of_layers, "(data) imports align.world"),
        ("shelf/a.py", "", breaches_of_layers, "shelf has no layer"),
        ("engine/a.py", "import torch.distributed as d", breaches_of_only, "names torch.distributed"),
        ("engine/a.py", "import torch\ntorch.distributed.barrier()", breaches_of_only, "a.py:2 names"),
        ("rollout/a.py", "from ray import remote", breaches_of_only, "names ray"),
        ("rollout/a.py", "import importlib\nimportlib.import_module('ray')", breaches_of_only, "names ray"),
        ("stages/a.py", "import torch", heavy_when_imported, "stages/a.py:1 imports torch"),
        ("stages/a.py", "if 1:\n    from torch import nn", heavy_when_imported, "imports torch.nn"),
        ("stages/a.py", "from align import deep", heavy_when_imported, "a.py -> deep.py:1 imports torch"),
    ],
)  # fmt: skip
def test_the_rules_see_a_breach(
    file: str,
    source: str,
    rule: Callable[[Path], list[str]],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "REPO", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "align")
    path = tmp_path / "align" / file
    path.parent.mkdir(parents=True)
    (tmp_path / "align" / "deep.py").write_text("import torch\n", encoding="utf-8")
    path.write_text(source, encoding="utf-8")
    assert any(said in breach for breach in rule(path)), rule(path)


def test_the_rules_let_pass_what_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "REPO", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "align")
    path = tmp_path / "align" / "engine" / "dist.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from align.errors import RunError\n"
        "from align.engine import step\n"
        "if TYPE_CHECKING:\n    from torch import Tensor\n"
        "def f():\n    import torch.distributed\n    return torch.distributed.get_rank()\n",
        encoding="utf-8",
    )
    assert breaches_of_layers(path) == breaches_of_only(path) == heavy_when_imported(path) == []
