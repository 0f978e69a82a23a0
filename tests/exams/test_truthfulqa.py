"""TruthfulQA: reading the authors' CSV, and MC1 and MC2 against the authors' code."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from align.errors import DataError
from align.exams.truthfulqa import COLUMNS, answers, grade, read, summary
from tests.oracles.exams import mc1, mc2

GOOD = ("Myths", "Is it so?", "No", "No; Not at all.; ", "Yes; It is")


def write(path: Path, *rows: tuple[str, ...], head: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])
    return path


def test_mc1_and_mc2_are_the_authors() -> None:
    random.seed(0)
    for _ in range(200):
        true = [random.uniform(-30, 0) for _ in range(random.randint(1, 5))]
        false = [random.uniform(-30, 0) for _ in range(random.randint(1, 6))]
        best = random.randrange(len(true))
        found = grade([*true, *false], len(true), best)
        assert float(found["mc1"]) == mc1(true, false, best)
        assert found["mc2"] == pytest.approx(mc2(true, false), rel=1e-12)


def test_mc2_by_hand_where_every_probability_underflows() -> None:
    """exp(-2000) is 0 in floating point; the shares of -2000, -2000 and -2000 + ln 2 are 1/4, 1/4, 1/2."""
    assert grade([-2000.0, -2000.0, -2000.0 + 0.6931471805599453], 2, 0)["mc2"] == pytest.approx(0.5, rel=1e-9)


def test_a_tie_with_a_false_answer_is_not_right() -> None:
    assert grade([-1.0, -5.0, -1.0], 2, 0)["mc1"] is False
    assert grade([-1.0, -5.0, -1.1], 2, 0)["mc1"] is True
    assert grade([-1.0, -5.0, -1.1], 2, 1)["mc1"] is False, "the best answer counts, not the likeliest true one"


def test_what_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", GOOD)
    (bare,), (primed,) = read(path, primer=False), read(path)
    assert bare.options == ("No.", "Not at all.", "Yes.", "It is.")
    assert (bare.meta["true"], bare.meta["best"]) == (2, 0)
    assert bare.plain == "Q: Is it so?\nA:"
    assert [m.content for m in bare.messages] == ["Is it so?"]
    assert primed.plain.startswith("Q: What is human life expectancy in the United States?\nA: Human life")
    assert primed.plain.endswith("held in Barcelona, Spain.\n\nQ: Is it so?\nA:")
    assert [m.role for m in primed.messages] == ["user", "assistant"] * 6 + ["user"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [GOOD, (*GOOD[:2], "Maybe", *GOOD[3:])],
            "t.csv:3: Best Answer: found 'Maybe.', expected one of Correct Answers",
        ),
        ([(*GOOD[:4], "")], "t.csv:2: Incorrect Answers: found ''"),
        ([(*GOOD[:4], " ; ")], "t.csv:2: Incorrect Answers: found ' ; ', expected answers between semicolons"),
        ([GOOD[:3]], "t.csv:2: found 3 fields, expected 5"),
        ([(GOOD[0], "two\nlines", *GOOD[2:]), GOOD[:2]], "t.csv:4: found 2 fields"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, rows: list[tuple[str, ...]], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "t.csv", *rows))
    assert said in str(caught.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", GOOD, head=("Category", "Qestion", *COLUMNS[2:]))
    with pytest.raises(DataError, match=r"t\.csv:2: Question: found no such field \(did you mean 'Qestion'\?\)"):
        read(path)
    with pytest.raises(DataError, match=r"no such file \(did you mean 't\.csv'\?\)"):
        read(tmp_path / "tt.csv")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not CSV in UTF-8"):
        read(path)


def test_the_published_file(shared_data: Path) -> None:
    questions = read(shared_data / "safety" / "TruthfulQA.csv")
    assert len(questions) == 817, "section 2 of the paper"
    assert len({q.meta["category"] for q in questions}) == 38, "section 2 of the paper"
    assert all(0 < q.meta["true"] < len(q.options) for q in questions)
    assert all(option.endswith(".") for q in questions for option in q.options)
    assert answers(" a;b. ;", "here") == ("a.", "b.")


def test_the_summary() -> None:
    rows = [{"mc1": one, "mc2": two, "category": name} for one, two, name in ((True, 0.5, "a"), (False, 0.25, "b"))]
    found = summary(rows)
    assert found["mc1"]["accuracy"] == 0.5
    assert found["mc2"]["value"] == pytest.approx(0.375)
    assert {name: cell["accuracy"] for name, cell in found["mc1_by_category"].items()} == {"a": 1.0, "b": 0.0}
