"""HumanEval (Chen et al. 2021, arXiv 2107.03374): functions to be written, judged by running their tests.

This file runs nothing: :mod:`align.exams.programs` does, where a recipe asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic

from align.config import config
from align.errors import DataError
from align.exams.programs import Limits
from align.exams.question import Form, user
from align.exams.rows import read_objects
from align.records import Messages

FIELDS = ("task_id", "prompt", "entry_point", "test")
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where a completion ends (section 3.2 of the paper)
ASK = "Complete this Python function. Answer with the whole function in one block of code.\n\n```python\n{}\n```"
BLOCK = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class HumanEvalConfig:
    """How HumanEval is asked and run."""

    path: str  # HumanEval.jsonl, also .gz
    form: Form
    run_programs: bool = False  # true: what the policy writes is executed on this machine
    samples: Count = 1  # of each problem
    k: list[Count]  # of pass@k, none more than samples
    temperature: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count
    limits: Limits = pydantic.Field(default_factory=Limits)
    take: Count | None = None  # the first problems only

    def __post_init__(self) -> None:
        """Refuse what would run programs unasked, and what is no estimate."""
        if not self.run_programs:
            raise ValueError(
                "run_programs: found false; HumanEval executes the programs that the policy writes, "
                "and does so only with run_programs: true"
            )
        if not self.k or max(self.k) > self.samples:
            raise ValueError(f"k: found {self.k}, expected one or more from 1 to samples = {self.samples}")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"samples: found {self.samples} at temperature 0, where all are alike")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A row of the file."""

    id: str
    where: str  # file:line
    prompt: str  # imports, helpers, the head of the function and its docstring
    entry_point: str  # the function's name
    test: str  # defines ``check(candidate)``
    solution: str  # the one that came with it; empty where none did


def read(path: str | Path) -> list[Problem]:
    """The problems of ``HumanEval.jsonl``.

    Raises:
        DataError: see :func:`align.exams.rows.read_objects`; an entry point that the prompt does not define, a test
            without ``check``.
    """
    found = []
    for where, row in read_objects(path, FIELDS):
        name = row["entry_point"]
        if not re.search(rf"^def {re.escape(name)}\(", row["prompt"], re.MULTILINE):
            raise DataError(f"{where}: entry_point: found {name!r}, which prompt does not define")
        if not re.search(r"^def check\(", row["test"], re.MULTILINE):
            raise DataError(f"{where}: test: found no 'def check(', expected the tests in a function of this name")
        found.append(
            Problem(
                id=row["task_id"],
                where=where,
                prompt=row["prompt"],
                entry_point=name,
                test=row["test"],
                solution=str(row.get("canonical_solution", "")),
            )
        )
    return found


def ask(problem: Problem, form: Form) -> Messages | str:
    """What the policy is given: a chat to be answered, or the prompt to go on with, as published."""
    return (user(ASK.format(problem.prompt.rstrip())),) if form == "chat" else problem.prompt


def completion(answer: str, form: Form) -> str:
    """The code of an answer, to stand behind the prompt.

    Args:
        answer: ``plain``: what follows the prompt, its indentation included; ``chat``: the assistant's words.
        form: ``plain``: up to the first line that begins with class, def, #, if or print; ``chat``: the first block
            of code, or all of it where there is none. A whole function takes the place of the prompt's, whose head
            and docstring are a function of their own.
    """
    if form == "plain":
        return answer[: min((at for stop in STOPS if (at := answer.find(stop)) >= 0), default=len(answer))]
    block = BLOCK.search(answer)
    return "\n" + (block[1] if block else answer)


def program(problem: Problem, completed: str) -> tuple[str, str]:
    """The solution, and the test with its call, as two texts to be run one after the other."""
    return problem.prompt + completed, f"{problem.test}\n\ncheck({problem.entry_point})\n"


def pass_at_k(n: int, c: int, k: int) -> float:
    """``1 - C(n - c, k) / C(n, k)``: the chance that one of k samples passes, unbiased (equation 1 of the paper).

    Computed as the product of ``1 - k / i`` for i from n - c + 1 to n, as the paper does: no large numbers.

    Args:
        n: samples drawn.
        c: of them that pass, 0 … n.
        k: 1 … n.

    Raises:
        ValueError: c or k is outside its range.
    """
    if not 0 <= c <= n:
        raise ValueError(f"pass_at_k: found c = {c}, expected 0 to n = {n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass_at_k: found k = {k}, expected 1 to n = {n}")
    if n - c < k:
        return 1.0
    failing = 1.0
    for i in range(n - c + 1, n + 1):
        failing *= 1.0 - k / i
    return 1.0 - failing


def summary(rows: Sequence[dict[str, Any]], ks: Sequence[int]) -> dict[str, Any]:
    """pass@k: mean over problems with its standard error; how programs ended.

    Args:
        rows: one a problem, with ``samples``, each of them with ``result``.
        ks: of pass@k.
    """
    from collections import Counter

    from align.stats import estimate

    counts = [(len(row["samples"]), sum(s["result"] == "passed" for s in row["samples"])) for row in rows]
    return {
        "pass_at_k": {str(k): estimate([pass_at_k(n, c, k) for n, c in counts]) for k in ks},
        "results": dict(sorted(Counter(s["result"] for row in rows for s in row["samples"]).items())),
    }
