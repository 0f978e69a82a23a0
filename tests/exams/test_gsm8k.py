"""GSM8K: what is read in an answer, against the authors' code and the whole published file."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.artifacts import write_jsonl
from align.errors import DataError
from align.exams.gsm8k import ASK, ask, grade, last, marked, read, summary, without
from tests.oracles.exams import gsm8k_answer


@pytest.mark.parametrize(
    ("text", "strict", "final"),
    [
        ("6*3 = <<6*3=18>>18\n#### 18", "18", "18"),
        ("#### 1,450,000", "1450000", "1450000"),
        ("#### -3", "-3", "-3"),
        ("#### 2.5", "2.5", "2.5"),
        ("#### 18.", "18", "18"),
        ("#### $18", "18", "18"),
        ("first #### 4\nthen #### 5", "4", "5"),
        ("The answer is $1,200.50.", None, "1200.50"),
        ("It takes 3 days, or 72 hours, all in all", None, "72"),
        ("Nobody knows.", None, None),
        ("####", None, None),
    ],
)
def test_what_is_read_in_an_answer(text: str, strict: str | None, final: str | None) -> None:
    assert (marked(text), last(text)) == (strict, final)


def test_the_mark_is_read_as_the_authors_read_it() -> None:
    for text in ("#### 18", "a #### 1,0 b", "x\n#### -7\n#### 8", "no mark", "#### 3.5", "####18x"):
        assert (marked(text) or "[invalid]") == gsm8k_answer(text)


def test_an_answer_ends_where_the_next_question_begins() -> None:
    found = grade(" It is 5.\n#### 5\n\nQuestion: And 6?\nAnswer: #### 6", "5")
    assert found == {"marked": "5", "last": "5", "correct_marked": True, "correct_last": True}
    assert grade("18.00", "18")["correct_last"] is False
    assert grade("nothing", "18")["correct_marked"] is False


def test_the_published_file(shared_data: Path) -> None:
    problems = read(shared_data / "eval" / "gsm8k_test.jsonl.gz")
    assert len(problems) == 1319
    for problem in problems:
        assert problem.reference == gsm8k_answer(problem.solution)
        assert all(grade(problem.solution, problem.reference)[key] for key in ("correct_marked", "correct_last"))
        assert problem.reference.lstrip("-").isdigit(), "every answer of the test set is a whole number"
    first, second = problems[0].reference, problems[1].reference
    assert (first, second) == ("18", "3")


def rows(tmp_path: Path) -> Path:
    write_jsonl(
        tmp_path / "g.jsonl", [{"question": f"What is {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(4)]
    )
    return tmp_path / "g.jsonl"


def test_what_is_asked_in_both_forms(tmp_path: Path) -> None:
    problems = read(rows(tmp_path))
    shots, rest = problems[:1], without(problems, problems[:1])
    assert [p.id for p in rest] == ["gsm8k/2", "gsm8k/3", "gsm8k/4"]
    assert ask(rest[0], shots, "plain") == (
        "Question: What is 0?\nAnswer: It is 0.\n#### 0\n\nQuestion: What is 1?\nAnswer:"
    )
    chat = ask(rest[0], shots, "chat")
    assert [(m.role, m.content) for m in chat] == [  # type: ignore[union-attr]
        ("user", f"What is 0?\n\n{ASK}"), ("assistant", "It is 0.\n#### 0"), ("user", f"What is 1?\n\n{ASK}"),
    ]  # fmt: skip


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "g.jsonl", [{"question": "a", "answer": "#### 1"}, {"question": "b", "answer": "2"}])
    with pytest.raises(DataError, match=r"g\.jsonl:2: answer: found no '#### number' in it"):
        read(tmp_path / "g.jsonl")
    write_jsonl(tmp_path / "g.jsonl", [{"qestion": "a", "answer": "#### 1"}])
    with pytest.raises(DataError, match=r"g\.jsonl:1: question: found no such field \(did you mean 'qestion'\?\)"):
        read(tmp_path / "g.jsonl")


def test_the_summary_counts_both_rules() -> None:
    graded = [grade(text, "5") | {"finish": end} for text, end in (("#### 5", "stop"), ("5", "stop"), ("6", "length"))]
    found = summary(graded)
    assert found["exact_match"]["accuracy"] == pytest.approx(1 / 3)
    assert found["exact_match_last_number"]["accuracy"] == pytest.approx(2 / 3)
    assert found["marked"]["accuracy"] == found["cut"]["accuracy"] == pytest.approx(1 / 3)
