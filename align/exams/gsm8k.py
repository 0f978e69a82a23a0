"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): word problems, whose last line ``#### n`` is the answer.

Two rules say what a model's answer is. ``marked``, the authors' own: the first number behind ``####``. ``last``: the
last number of the text, for models that were never shown the mark. Either is right where it equals the reference as
text, commas, a dollar sign and a full stop at its end left out: 18.00 is not 18, as in the authors' code.
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
from align.exams.question import Form, assistant, user
from align.exams.rows import read_objects
from align.records import Messages

MARKED = re.compile(r"#### \$?(-?[0-9.,]+)")
NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?|-?\.[0-9]+")
STOP = "Question:"  # where a base model that has answered goes on with the next question
ASK = "End your answer with a line that says #### and the number."

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class ShotsConfig:
    """Problems that are shown with their solutions."""

    path: str  # the training set, say; problems of the exam itself are left out of it, and counted
    count: Count  # the first ones


@config
class GSM8KConfig:
    """How GSM8K is asked; answers are greedy."""

    path: str  # test.jsonl, also .gz
    form: Form
    shots: ShotsConfig | None = None
    max_new_tokens: Count
    take: Count | None = None  # the first problems only


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A row of the file."""

    id: str
    where: str  # file:line
    question: str
    solution: str  # as written, with its ``#### n``
    reference: str  # the number


def read(path: str | Path) -> list[Problem]:
    """The problems of ``test.jsonl`` or ``train.jsonl``: ``question`` and ``answer``.

    Raises:
        DataError: see :func:`align.exams.rows.read_objects`; an answer without ``#### n``.
    """
    found = []
    for number, (where, row) in enumerate(read_objects(path, ("question", "answer")), 1):
        reference = marked(row["answer"])
        if reference is None:
            raise DataError(f"{where}: answer: found no '#### number' in it, expected one at its end")
        question, solution = row["question"].strip(), row["answer"].strip()
        found.append(
            Problem(id=f"gsm8k/{number}", where=where, question=question, solution=solution, reference=reference)
        )
    return found


def without(problems: Sequence[Problem], shots: Sequence[Problem]) -> list[Problem]:
    """The problems that are not among those shown with their solutions."""
    shown = {shot.question for shot in shots}
    return [problem for problem in problems if problem.question not in shown]


def ask(problem: Problem, shots: Sequence[Problem], form: Form) -> Messages | str:
    """What the policy is given: a chat to be answered, or a text to go on with.

    Args:
        problem: to be solved.
        shots: solved before it, their solutions as written in the file, calculator marks ``<<…>>`` and all.
        form: ``chat``: turns, each question followed by what to end with; ``plain``: ``Question: …\\nAnswer: …``.
    """
    if form == "chat":
        turns = tuple(turn for shot in shots for turn in (user(f"{shot.question}\n\n{ASK}"), assistant(shot.solution)))
        return (*turns, user(f"{problem.question}\n\n{ASK}"))
    before = "".join(f"Question: {shot.question}\nAnswer: {shot.solution}\n\n" for shot in shots)
    return f"{before}Question: {problem.question}\nAnswer:"


def marked(text: str) -> str | None:
    """The number behind the first ``####``; None where there is none."""
    found = MARKED.search(text)
    return cleaned(found[1]) if found else None


def last(text: str) -> str | None:
    """The last number of a text; None where there is none."""
    found = NUMBER.findall(text)
    return cleaned(found[-1]) if found else None


def cleaned(number: str) -> str:
    """A number as it is compared."""
    return number.replace(",", "").replace("$", "").removesuffix(".")


def grade(answer: str, reference: str) -> dict[str, Any]:
    """What both rules read in an answer, and whether it is right.

    Args:
        answer: as sampled; what follows ``Question:`` is not part of it.
        reference: the number.
    """
    said = answer.partition(STOP)[0]
    found = {"marked": marked(said), "last": last(said)}
    return {
        "marked": found["marked"],
        "last": found["last"],
        "correct_marked": found["marked"] == reference,
        "correct_last": found["last"] == reference,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Exact match by both rules with 95 % Wilson intervals, and how many answers have the mark, or were cut.

    Args:
        rows: graded, with ``finish``.
    """
    from align.stats import proportion

    return {
        "exact_match": proportion([float(row["correct_marked"]) for row in rows]),
        "exact_match_last_number": proportion([float(row["correct_last"]) for row in rows]),
        "marked": proportion([float(row["marked"] is not None) for row in rows]),
        "cut": proportion([float(row["finish"] == "length") for row in rows]),
    }
