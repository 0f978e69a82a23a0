"""Tables that read the same in a terminal, a README and a web page."""

from __future__ import annotations

import math
from collections.abc import Sequence

Cell = str | int | float | None


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in GitHub's Markdown, its columns padded so that a terminal shows it aligned too.

    Args:
        title: a line above the table.
        columns: their headings.
        rows: text as it is; whole numbers with thousands separated; floats to three decimals (format them
            yourself for another precision); None and NaN as "–", for what is not known.

    Returns:
        The text, without a newline at its end. A column of numbers is flushed right.

    Raises:
        ValueError: a row has not one cell a column.
    """
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: row {index} has {len(row)} cells, expected {len(columns)}")
    body = [[_text(cell) for cell in row] for row in rows]
    head = [_escape(column) for column in columns]
    right = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
    widths = [max(3, *(_width(line[i]) for line in [head, *body])) for i in range(len(columns))]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    lines = [_line(cells, widths, right) for cells in (head, rule, *body)]
    return "\n".join([f"### {title}", "", *lines])


def _text(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.3f}"
    return f"{cell:,}" if isinstance(cell, int) else _escape(cell)


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
