"""Tables that read the same in a terminal, a README and a web page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """What a table holds, before it is written as Markdown or HTML.

    Text stands as it is; whole numbers get their thousands separated; floats three decimals (format them yourself
    for another precision); None and NaN are "–", for what is not known.

    Raises:
        ValueError: a row has not one cell a column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        """Refuse a row of another length."""
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {index} has {len(row)} cells, expected {len(self.columns)}"
                )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """:func:`markdown` of a :class:`Table`."""
    return markdown(Table(title, columns, rows))


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, its columns padded so that a terminal shows it aligned too.

    Returns:
        The text under a line with the title, without a newline at its end. A column of numbers is flushed right.
    """
    body = [[_escape(text(cell)) for cell in row] for row in table.rows]
    head = [_escape(column) for column in table.columns]
    right = numeric(table)
    widths = [max(3, *(_width(line[i]) for line in [head, *body])) for i in range(len(head))]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    lines = [_line(cells, widths, right) for cells in (head, rule, *body)]
    return "\n".join([f"### {table.title}", "", *lines])


def text(cell: Cell) -> str:
    """A cell as it is read."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.3f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def numeric(table: Table) -> list[bool]:
    """Which columns hold numbers, and so are flushed right."""
    return [_is_numeric([row[i] for row in table.rows]) for i in range(len(table.columns))]


def _escape(text: str) -> str:
    """One line, with nothing that Markdown takes for a column's end."""
    return " ".join(text.split()).replace("|", "\\|")


def _is_numeric(cells: Sequence[Cell]) -> bool:
    """Whether a column holds numbers: numbers proper, or text that starts with a digit after its sign."""
    known = [cell for cell in cells if cell is not None and cell != "–"]
    return bool(known) and all(cell.lstrip("+-−")[:1].isdigit() if isinstance(cell, str) else True for cell in known)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        " " * (w - _width(c)) + c if r else c + " " * (w - _width(c))
        for c, w, r in zip(cells, widths, right, strict=True)
    )
    return f"| {' | '.join(padded)} |"


def _width(text: str) -> int:
    """Columns in a terminal: a Chinese character takes two."""
    from rich.cells import cell_len

    return cell_len(text)
