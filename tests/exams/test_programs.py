"""Programs run apart: those that must pass do, and no hostile one passes, harms, or outlives its time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from align.errors import RunError
from align.exams import programs
from align.exams.humaneval import completion, program, read
from align.exams.programs import Limits, run, run_all

QUICK = Limits(seconds=2, memory_mib=512)
HOME = Path("/tmp/align-hostile-wrote-this")

# what a program does in place of solving its problem -> what may be said of it
HOSTILE = {
    "endless loop": ("while True: pass", {"timed out"}),
    "memory bomb": ("x = bytearray(10**11)", {"out of memory"}),
    "fork": ("import os\nos.fork()", {"failed"}),
    "fork below Python": (
        "import threading\nthreading.Thread(target=print).start()", {"failed"},
    ),
    "write elsewhere": (f"open({str(HOME)!r}, 'w').write('x')", {"failed"}),
    "write elsewhere by descriptor": (f"import os\nos.open({str(HOME)!r}, os.O_CREAT | os.O_WRONLY)", {"failed"}),
    "write elsewhere by a way around": (f"open('../../..{HOME}', 'w').write('x')", {"failed"}),
    "write too much": ("open('big', 'w').write('x' * 2_000_000)", {"failed"}),
    "remove": (f"import os\nos.remove({__file__!r})", {"failed"}),
    "connect": ("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)", {"failed"}),
    "another program": ("import os\nos.system('true')", {"failed"}),
    "kill its parent": ("import os\nos.kill(os.getppid(), 9)", {"failed"}),
    "exit": ("exit(0)", {"failed"}),
    "sys.exit": ("import sys\nsys.exit(0)", {"failed"}),
    "raise SystemExit": ("raise SystemExit(0)", {"failed"}),
    "os._exit": ("import os\nos._exit(0)", {"ended early"}),
    "os._exit at exit": ("import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit", {"failed"}),
    "abort": ("import os\nos.abort()", {"ended early"}),
    "say that it passed": (
        "import os\nfor d in range(3, 32):\n    try: os.write(d, b'passed')\n    except OSError: pass\nos._exit(0)",
        {"ended early"},
    ),
    "read the token": ("import sys\nprint(sys._getframe(1).f_locals)", {"failed"}),
    "an error that exits": ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", {"failed"}),
    "no Python": ("def f(:", {"failed"}),
    "a null byte": ("a\0b", {"failed"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_program_passes(name: str) -> None:
    solution, results = HOSTILE[name]
    found = run(solution, "pass", QUICK)
    assert found.result in results, found
    assert not HOME.exists()
    assert Path(__file__).exists()


@pytest.mark.parametrize("name", ["fork below Python", "os._exit", "memory bomb"])
def test_nor_where_the_system_gives_no_spaces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_spaces", tuple)
    assert programs.network() == "open"
    solution, results = HOSTILE[name]
    assert run(solution, "pass", QUICK).result in results
    assert run("x = 1", "assert x == 1", QUICK).result == "passed"


def test_a_program_that_sleeps_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "WAITING", 2)
    began = time.monotonic()
    assert run("import time\ntime.sleep(100)", "pass", Limits(seconds=1)).result == "timed out"
    assert 2 <= time.monotonic() - began < 20


def test_what_a_program_finds_around_it() -> None:
    """An empty folder of its own, no secret in its environment, the standard library, no input, nobody's rights."""
    solution = (
        "import os, typing, re, hashlib, json, encodings.idna, xml.dom.minidom\n"
        "from collections import namedtuple\nfrom dataclasses import dataclass\n"
        "P = namedtuple('P', 'x y')\nclass Q(typing.NamedTuple):\n    x: int\n"
        "found = os.listdir('.')\nopen('mine', 'w').write('x' * 1000)\nos.remove('mine')\n"
    )
    test = (
        "assert found == []\nassert os.getuid() != 0 and os.geteuid() != 0\n"
        "assert set(os.environ) <= {'PATH', 'LANG', 'PYTHONHASHSEED', 'LC_CTYPE'}, os.environ\n"
        "try: input()\nexcept EOFError: pass\nelse: raise AssertionError\n"
    )
    if os.geteuid() != 0:
        test = test.replace("assert os.getuid() != 0 and os.geteuid() != 0\n", "")
    found = run(solution, test, Limits())
    assert found.result == "passed", found


def test_results_come_in_order_and_say_what_was_wrong() -> None:
    pairs = [("x = 1", "assert x == 1"), ("x = 1", "assert x == 2, 'no'"), ("y = 1", "x"), ("x = 3", "assert x == 3")]
    found = run_all(pairs, QUICK)
    assert [one.result for one in found] == ["passed", "failed", "failed", "passed"]
    assert found[1].detail == "AssertionError: no"
    assert found[2].detail == "NameError: name 'x' is not defined"


def test_where_no_program_can_run_that_is_an_error_and_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "WORKS", ("import no_such_module", "pass"))
    with pytest.raises(RunError, match=r"should have passed failed \(ModuleNotFoundError"):
        run_all([("x = 1", "pass")], QUICK)


def test_some_canonical_solutions_pass_and_nothing_else_does(shared_data: Path) -> None:
    problems = read(shared_data / "eval" / "HumanEval.jsonl.gz")[::40]
    right = run_all([program(p, completion(p.solution, "plain")) for p in problems], Limits())
    wrong = run_all([program(p, "    return None\n") for p in problems], Limits())
    assert {one.result for one in right} == {"passed"}
    assert {one.result for one in wrong} == {"failed"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_canonical_solution_passes(shared_data: Path) -> None:
    problems = read(shared_data / "eval" / "HumanEval.jsonl.gz")
    ran = run_all([program(p, completion(p.solution, "plain")) for p in problems], Limits(seconds=30))
    assert [(p.id, one) for p, one in zip(problems, ran, strict=True) if one.result != "passed"] == []
