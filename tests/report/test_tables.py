from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.markdown import Markdown

from align.report.tables import table


def test_a_table_to_the_character() -> None:
    text = table(
        "Held-out accuracy",
        ["set", "pairs", "accuracy, %", "gap"],
        [["helpful", 12345, "64.5 (61.2–67.7)", 0.5], ["safety | all", 7, None, float("nan")]],
    )
    assert text == (
        "### Held-out accuracy\n"
        "\n"
        "| set           |  pairs |      accuracy, % |   gap |\n"
        "| ------------- | -----: | ---------------: | ----: |\n"
        "| helpful       | 12,345 | 64.5 (61.2–67.7) | 0.500 |\n"
        "| safety \\| all |      7 |                – |     – |"
    )


def test_markdown_reads_it_as_a_table_with_every_cell() -> None:
    """An independent parser (markdown-it, through rich) finds the heading and the cells."""
    text = table("T", ["a", "b|c"], [["x|y", "two\nlines"], ["日本語", ""]])
    tokens = Markdown(text).parsed
    assert [t.type for t in tokens if t.type in ("heading_open", "table_open")] == [
        "heading_open",
        "table_open",
    ]
    opens = [i for i, t in enumerate(tokens) if t.type in ("th_open", "td_open")]
    assert [tokens[i + 1].content for i in opens] == ["a", "b|c", "x|y", "two lines", "日本語", ""]
    console = Console(file=io.StringIO(), width=60)
    console.print(Markdown(text))


def test_every_line_is_of_one_width_in_a_terminal() -> None:
    from rich.cells import cell_len

    lines = table("T", ["name", "n"], [["日本語", 1], ["– ± é", 1_000_000]]).splitlines()[2:]
    assert len({cell_len(line) for line in lines}) == 1


def test_text_that_is_a_number_is_flushed_right_and_a_column_of_words_is_not() -> None:
    rule = table("T", ["a", "b", "c"], [["-1.5 ± 0.2", "7B", None], ["–", "base", None]]).splitlines()[3]
    assert [cell.strip().endswith(":") for cell in rule.strip("|").split("|")] == [True, False, False]


def test_no_rows_and_a_row_of_another_length() -> None:
    assert table("T", ["a", "b"], []) == "### T\n\n| a   | b   |\n| --- | --- |"
    with pytest.raises(ValueError, match="table 'T': row 1 has 3 cells, expected 2"):
        table("T", ["a", "b"], [[1, 2], [1, 2, 3]])
