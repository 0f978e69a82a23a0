"""HumanEval: the estimator against counting, the closed form and published values; reading; where a completion ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import write_jsonl
from align.config import parse
from align.errors import DataError, RecipeError
from align.exams.humaneval import Problem, ask, completion, pass_at_k, program, read, summary
from align.stages.exam import Recipe
from tests.oracles.exams import pass_at_k_by_counting

ROW = {
    "task_id": "HumanEval/0",
    "prompt": 'import math\n\n\ndef twice(x):\n    """Two times x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}


def test_pass_at_k_is_the_share_of_draws_in_which_one_passes() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == pytest.approx(pass_at_k_by_counting(n, c, k), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(200, 1, 100), (200, 13, 10), (200, 199, 1), (200, 100, 100), (200, 0, 1)])
def test_pass_at_k_is_the_closed_form_where_numbers_are_large(n: int, c: int, k: int) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), rel=1e-12)


def test_pass_at_k_of_the_published_example() -> None:
    """openai/human-eval's README: of example_samples.jsonl, 6 samples of one problem of which 3 pass."""
    assert pass_at_k(6, 3, 1) == pytest.approx(0.4999999999999999, abs=1e-15)
    with pytest.raises(ValueError, match="k = 10, expected 1 to n = 6"):
        pass_at_k(6, 3, 10)
    with pytest.raises(ValueError, match="c = 7, expected 0 to n = 6"):
        pass_at_k(6, 7, 1)


def test_the_summary_is_a_mean_over_problems() -> None:
    rows = [{"samples": [{"result": "passed"}] * c + [{"result": "failed"}] * (4 - c)} for c in (0, 1, 4)]
    found = summary(rows, [1, 2])
    assert found["pass_at_k"]["1"]["value"] == pytest.approx((0 + 0.25 + 1) / 3)
    assert found["pass_at_k"]["2"]["value"] == pytest.approx((0 + 0.5 + 1) / 3)
    assert found["pass_at_k"]["1"]["n"] == 3
    assert found["results"] == {"failed": 7, "passed": 5}


def problem(**changes: Any) -> Problem:
    values = {"id": "a", "where": "f:1", "prompt": ROW["prompt"], "entry_point": "twice", "test": ROW["test"]}
    return Problem(**{**values, "solution": "", **changes})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("    return 2 * x\n", "    return 2 * x\n"),
        ("    return 2 * x\n\ndef other():\n    pass", "    return 2 * x\n"),
        ("    return 2 * x\nprint(twice(2))\n", "    return 2 * x"),
        (
            "    if x:\n        return 1\n    # inner\n    return 2\n# outer",
            "    if x:\n        return 1\n    # inner\n    return 2",
        ),
        ("    return 2\nclass A: pass\ndef b(): pass", "    return 2"),
        ("    return 2\nif __name__", "    return 2"),
        ("", ""),
    ],
)
def test_a_completion_ends_where_the_paper_ends_it(answer: str, expected: str) -> None:
    assert completion(answer, "plain") == expected


def runs(solution: str, name: str, given: int) -> Any:
    names: dict[str, Any] = {}
    exec(solution, names)
    return names[name](given)


@pytest.mark.parametrize(
    "answer",
    [
        "Here it is:\n```python\ndef twice(x):\n    return 2 * x\n```\nIt doubles. ```python\nbroken(\n```",
        "```\ndef twice(x):\n    return 2 * x",
        "def twice(x):\n    return 2 * x",
        "``` Python\nimport os\n\ndef help(x):\n    return x + x\n\ndef twice(x):\n    return help(x)\n```",
    ],
)
def test_a_whole_function_in_a_chat_takes_the_place_of_the_prompts(answer: str) -> None:
    solution, test = program(problem(), completion(answer, "chat"))
    assert runs(solution, "twice", 21) == 42
    assert test.endswith("check(twice)\n")


def test_what_is_asked() -> None:
    assert ask(problem(), "plain") == ROW["prompt"]
    (message,) = ask(problem(), "chat")
    assert message.content.endswith('"""Two times x."""\n```')  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entry_point": "thrice"}, "h.jsonl:2: entry_point: found 'thrice', which prompt does not define"),
        ({"test": "assert True"}, "h.jsonl:2: test: found no 'def check('"),
        ({"test": ""}, "h.jsonl:2: test: found ''"),
        ({"prompt": 3}, "h.jsonl:2: prompt: found 3, expected text"),
        ({"task_id": None}, "h.jsonl:2: task_id: found None, expected text"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write_jsonl(tmp_path / "h.jsonl", [ROW, {**ROW, **changes}])
    with pytest.raises(DataError) as caught:
        read(tmp_path / "h.jsonl")
    assert said in str(caught.value)


def test_the_published_file_is_read(shared_data: Path) -> None:
    problems = read(shared_data / "eval" / "HumanEval.jsonl.gz")
    assert [p.id for p in problems] == [f"HumanEval/{i}" for i in range(164)]
    # no canonical solution goes on behind where a completion is cut
    assert [p.id for p in problems if completion(p.solution, "plain") != p.solution] == []


def recipe(**changes: Any) -> Recipe:
    section = {"path": "h.jsonl", "form": "plain", "k": [1], "max_new_tokens": 9} | changes
    return parse(Recipe, {"stage": "exam", "policies": {"a": "b"}, "humaneval": section}, "exam.yaml")


@pytest.mark.parametrize("given", [{}, {"run_programs": False}])
def test_without_its_key_nothing_is_executed(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"exam\.yaml.*run_programs: found false.*only with run_programs: true"):
        recipe(**given)
    assert recipe(run_programs=True).humaneval is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"k": [1, 3], "samples": 2, "temperature": 0.8}, "expected one or more from 1 to samples = 2"),
        ({"k": []}, "expected one or more"),
        ({"samples": 2}, "found 2 at temperature 0"),
        ({"limits": {"second": 1}}, "limits.second: unknown key (did you mean 'seconds'?)"),
    ],
)
def test_a_recipe_that_is_none(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(run_programs=True, **given)
    assert said in str(caught.value)
