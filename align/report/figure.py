"""A figure of the page: the drawing, its legend, and the numbers that it was drawn from."""

from __future__ import annotations

import csv
import io
import math
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from align.report.charts import COLORS, Series
from align.report.gather import value
from align.report.markup import EMPTY, Markup, element, embedded_json, text
from align.report.tables import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What :func:`figure` lays out.

    Attributes:
        key: unique on the page. Names the file that is downloaded.
        caption: what is drawn, how it was counted.
        legend: (name, colour) of what the drawing shows in colours, empty where it says so itself.
        columns: of the data.
        rows: of the data.
        wide: takes the page's whole width.
    """

    key: str
    title: str
    caption: str
    drawing: Markup
    legend: Sequence[tuple[str, int]] = ()
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wide: bool = False


def figure(given: Figure) -> Markup:
    """The figure as HTML, its data within it: as JSON, and as a link that saves CSV."""
    legend = [
        element("li", element("span", class_=f"swatch s{color % COLORS}"), text(name)) for name, color in given.legend
    ]
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", given.key)
    data = {"title": given.title, "columns": given.columns, "rows": given.rows}
    link = element(
        "a", text("data (CSV)"), href=data_url(given.columns, given.rows), download=f"{key}.csv",
        aria_label=f"Download the data of “{given.title}” as CSV",
    )  # fmt: skip
    return element(
        "figure",
        element("figcaption", element("h4", text(given.title)), element("p", text(given.caption))),
        element("ul", *legend, class_="legend") if legend else EMPTY,
        element("div", given.drawing, class_="drawing"),
        element("p", link, class_="data"),
        element("script", embedded_json(data), type="application/json"),
        id=f"figure-{key}",
        class_="figure wide" if given.wide else "figure",
    )


def data_url(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A link that holds a CSV file (RFC 4180), None as an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    plain = stream.getvalue().encode("utf-8", "replace")
    return "data:text/csv;charset=utf-8," + urllib.parse.quote(plain, safe=" ,.:;/()_-+")


def long_rows(series: Iterable[Series]) -> list[list[Cell]]:
    """Drawn series as rows (series, x, y, low, high), the faint ones left out."""
    return [
        [s.name, x, y, s.low[i] if s.low else None, s.high[i] if s.high else None]
        for s in series
        if s.kind != "faint"
        for i, (x, y) in enumerate(zip(s.x, s.y, strict=True))
    ]


def legend_of(series: Iterable[Series]) -> list[tuple[str, int]]:
    """Names and colours of the series, each once."""
    return list({s.name: (s.name, s.color) for s in series if s.kind != "faint"}.values())


def colors_of(names: Iterable[str]) -> Mapping[str, int]:
    """A colour for each name, in their order."""
    return {name: index % COLORS for index, name in enumerate(dict.fromkeys(names))}


def shares_of(name: str, cells: Iterable[tuple[float, Any]], color: int) -> Series:
    """Shares with their intervals, each at its x; a cell without a share (``share``, ``low``, ``high``) is left out."""
    known = [(x, cell) for x, cell in cells if isinstance(cell, Mapping) and math.isfinite(value(cell, "share"))]
    y, low, high = ([value(cell, key) for _, cell in known] for key in ("share", "low", "high"))
    return Series(name=name, x=[x for x, _ in known], y=y, low=low, high=high, color=color)


def without_intervals(series: Series) -> Series:
    """The same values, where intervals of many series would hide each other."""
    return replace(series, low=(), high=())
