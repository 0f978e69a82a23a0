"""Charts as inline SVG: lines with bands, dots with intervals, bars, distributions; colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from align.report.axes import CHARACTER, HEIGHT, WIDTH, Frame, Scale, frame, plain, ticks
from align.report.markup import EMPTY, Markup, element, join, number, text

COLORS = 8  # that the page knows; more begin again
MARKED = 30  # a line of at most so many points shows each
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values along x; NaN is a gap.

    Attributes:
        low: lower ends of intervals, empty where there are none.
        kind: a faint line stands behind another of its name and is in no legend.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    color: int = 0
    kind: Literal["line", "faint", "dashed"] = "line"


def svg(label: str, width: float, height: float, *parts: Markup, most: float | None = None) -> Markup:
    """A picture that scales with its column, to ``most`` pixels; ``label`` is what a screen reader says."""
    return element(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {number(width)} {number(height)}", role="img",
        aria_label=label, class_="chart", style=f"max-width: {number(most)}px" if most else None,
    )  # fmt: skip


def lines(
    series: Sequence[Series],
    label: str,
    x_label: str,
    y_label: str,
    *,
    shares: bool = False,
    zero: bool = False,
    places: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    joined: bool = True,
) -> Markup:
    """Values against x, with a band where there are intervals.

    Args:
        series: drawn in this order.
        label: for screen readers.
        x_label: what x is.
        y_label: what y is.
        shares: y is a share, written in per cent.
        zero: y begins at 0.
        places: ticks of x; round numbers where not given.
        names: categories at x = 0, 1, …
        joined: False leaves the points alone, an interval being a whisker.
    """
    known = [value for s in series for value in (*s.y, *s.low, *s.high) if math.isfinite(value)]
    xs = [value for s in series for value in s.x]
    axes = frame(xs, known, x_label, y_label, shares=shares, zero=zero, names=names, places=places)
    parts = [axes.markup]
    for s in series:
        if joined and s.low:
            parts.append(_band(axes, s))
    for s in series:
        parts.append(_line(axes, s) if joined else _whiskers(axes, s))
    return svg(label, WIDTH, HEIGHT, *parts)


def groups(
    names: Sequence[str],
    series: Sequence[Series],
    label: str,
    x_label: str,
    y_label: str,
    *,
    shares: bool = False,
    zero: bool = False,
    marks: Sequence[float] = (),
) -> Markup:
    """Dots with intervals, side by side over each category.

    Args:
        names: categories.
        series: ``x`` is the category's number.
        label: for screen readers.
        x_label: what the categories are.
        y_label: what y is.
        shares: y is a share, written in per cent.
        zero: y begins at 0.
        marks: a level of each category to compare with, NaN where there is none.
    """
    known = [value for s in series for value in (*s.y, *s.low, *s.high) if math.isfinite(value)]
    known += [value for value in marks if math.isfinite(value)]
    axes = frame([], known, x_label, y_label, shares=shares, zero=zero, names=names)
    room = 0.8 / max(1, len(series))
    parts = [axes.markup]
    for place, level in enumerate(marks):
        if math.isfinite(level):
            y = axes.y(level)
            parts.append(element("line", x1=axes.x(place - 0.46), x2=axes.x(place + 0.46), y1=y, y2=y, class_="level"))
    for index, s in enumerate(series):
        shift = (index - (len(series) - 1) / 2) * room
        moved = Series(
            name=s.name, x=[x + shift for x in s.x], y=s.y, low=s.low, high=s.high, color=s.color, kind=s.kind
        )
        parts.append(_whiskers(axes, moved))
    return svg(label, WIDTH, HEIGHT, *parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row of a bar chart: parts of (value, colour, name) one after another, and a note behind them."""

    name: str
    parts: Sequence[tuple[float, int, str]]
    note: str = ""
    low: float = math.nan
    high: float = math.nan


def bars(rows: Sequence[Bar], label: str, x_label: str) -> Markup:
    """Horizontal bars from zero, negative ones to the left."""
    ends = [sum(value for value, _, _ in row.parts) for row in rows]
    known = [*ends, *(v for row in rows for v in (row.low, row.high) if math.isfinite(v)), 0.0]
    steps = ticks(min(known), max(known), 5)
    left = 10 + CHARACTER * max((min(len(row.name), 20) for row in rows), default=0)
    right = 10 + CHARACTER * max((len(row.note) for row in rows), default=0)
    pitch, top = 19.0, 6.0
    foot = top + pitch * len(rows)
    x = Scale(steps[0], steps[-1], left, WIDTH - right)
    write = plain(steps)
    parts = [
        join([
            element("line", x1=x(step), x2=x(step), y1=top, y2=foot + 3, class_="grid"),
            element("text", text(write(step)), x=x(step), y=foot + 14, class_="tick", text_anchor="middle"),
        ])
        for step in steps
    ]  # fmt: skip
    parts.append(
        element("text", text(x_label), x=(left + WIDTH - right) / 2, y=foot + 30, class_="axis", text_anchor="middle")
    )
    for index, row in enumerate(rows):
        parts.append(_bar(row, x, top + pitch * index, pitch, left))
    return svg(label, WIDTH, foot + 36, *parts)


def ridges(
    rows: Sequence[tuple[str, int, Sequence[float]]], edges: Sequence[float], label: str, x_label: str
) -> Markup:
    """Distributions one above another on one scale, the mean of each marked.

    Args:
        rows: (name, colour, values), at least one value each.
        edges: of the histogram's bins, ascending; values beyond them count in the outer bins.
        label: for screen readers.
        x_label: what the values are.
    """
    pitch, top = 34.0, 14.0
    left = 10 + CHARACTER * max(min(len(name), 16) for name, _, _ in rows)
    foot = top + pitch * len(rows)
    x = Scale(edges[0], edges[-1], left, WIDTH - 12)
    shown = [tick for tick in ticks(edges[0], edges[-1]) if edges[0] - 1e-9 <= tick <= edges[-1] + 1e-9]
    write = plain(shown)
    parts = [
        join([
            element("line", x1=x(tick), x2=x(tick), y1=top, y2=foot, class_="grid"),
            element("text", text(write(tick)), x=x(tick), y=foot + 13, class_="tick", text_anchor="middle"),
        ])
        for tick in shown
    ]  # fmt: skip
    parts.append(element("text", text(x_label), x=(left + WIDTH) / 2, y=foot + 29, class_="axis", text_anchor="middle"))
    heights = [histogram(values, edges) for _, _, values in rows]
    tallest = max(max(h) for h in heights)
    for index, ((name, color, values), shares) in enumerate(zip(rows, heights, strict=True)):
        base = top + pitch * (index + 1)
        y = Scale(0.0, tallest, base, base - pitch * 1.25)
        outline = [f"M{number(x(edges[0]))} {number(base)}"]
        for share, a, b in zip(shares, edges, edges[1:], strict=False):
            outline.append(f"L{number(x(a))} {number(y(share))}L{number(x(b))} {number(y(share))}")
        outline.append(f"L{number(x(edges[-1]))} {number(base)}Z")
        mean = min(max(math.fsum(values) / len(values), edges[0]), edges[-1])
        parts += [
            element("path", element("title", text(f"{name}: mean {mean:.3g} of {len(values):,}")), d="".join(outline),
                    class_=f"ridge s{color % COLORS}"),
            element("line", x1=x(mean), x2=x(mean), y1=base, y2=base - 15, class_=f"mean s{color % COLORS}"),
            element("text", text(shorten(name, 16)), x=left - 6, y=base - 3, class_="tick", text_anchor="end"),
        ]  # fmt: skip
    return svg(label, WIDTH, foot + 35, *parts)


def histogram(values: Iterable[float], edges: Sequence[float]) -> list[float]:
    """Share of the values in each bin; those beyond the edges count in the outer bins."""
    counts = [0] * (len(edges) - 1)
    width = (edges[-1] - edges[0]) / len(counts)
    total = 0
    for value in values:
        counts[min(len(counts) - 1, max(0, int((value - edges[0]) / width)))] += 1
        total += 1
    return [count / total for count in counts]


def shorten(name: str, most: int) -> str:
    """A name of at most ``most`` characters, its end replaced by an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _line(axes: Frame, s: Series) -> Markup:
    pieces: list[list[Point]] = [[]]
    for x, y in zip(s.x, s.y, strict=True):
        if math.isfinite(y):
            pieces[-1].append((axes.x(x), axes.y(y)))
        else:
            pieces.append([])
    paths = [piece for piece in pieces if piece]
    drawn = "".join("M" + "L".join(f"{number(x)} {number(y)}" for x, y in piece) for piece in paths)
    css = f"{s.kind} s{s.color % COLORS}"
    line = element("path", element("title", text(s.name)), d=drawn, class_=css) if drawn else EMPTY
    if s.kind == "faint" or len(s.x) > MARKED:
        # a lone point between gaps would be invisible as a line
        alone = [piece[0] for piece in paths if len(piece) == 1]
        return join(
            [line, *(element("circle", cx=x, cy=y, r=1.6, class_=f"dot s{s.color % COLORS}") for x, y in alone)]
        )
    return join([line, _dots(axes, s)])


def _dots(axes: Frame, s: Series) -> Markup:
    return join(
        element(
            "circle", element("title", text(f"{s.name}: {y:.4g} at {x:.4g}")), cx=axes.x(x), cy=axes.y(y), r=2.6,
            class_=f"dot s{s.color % COLORS}",
        )
        for x, y in zip(s.x, s.y, strict=True)
        if math.isfinite(y)
    )  # fmt: skip


def _whiskers(axes: Frame, s: Series) -> Markup:
    parts = []
    for index, (x, y) in enumerate(zip(s.x, s.y, strict=True)):
        if s.low and math.isfinite(y) and math.isfinite(s.low[index]) and math.isfinite(s.high[index]):
            low, high = axes.y(s.low[index]), axes.y(s.high[index])
            parts.append(
                element("line", x1=axes.x(x), x2=axes.x(x), y1=low, y2=high, class_=f"whisker s{s.color % COLORS}")
            )
    return join([*parts, _dots(axes, s)])


def _band(axes: Frame, s: Series) -> Markup:
    points = [
        (axes.x(x), axes.y(low), axes.y(high))
        for x, low, high in zip(s.x, s.low, s.high, strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if len(points) < 2:
        return EMPTY
    there = "L".join(f"{number(x)} {number(high)}" for x, _, high in points)
    back = "L".join(f"{number(x)} {number(low)}" for x, low, _ in reversed(points))
    return element("path", d=f"M{there}L{back}Z", class_=f"band s{s.color % COLORS}")


def _bar(row: Bar, x: Scale, top: float, pitch: float, left: float) -> Markup:
    parts = [
        element(
            "text", element("title", text(row.name)), text(shorten(row.name, 20)), x=left - 6, y=top + pitch / 2 + 3.5,
            class_="tick", text_anchor="end",
        )
    ]  # fmt: skip
    at = 0.0
    for value, color, name in row.parts:
        a, b = sorted((x(at), x(at + value)))
        told = element("title", text(f"{row.name}{f', {name}' if name else ''}: {value:,.4g}"))
        parts.append(
            element(
                "rect", told, x=a, y=top + 3, width=max(b - a, 0.6), height=pitch - 6, class_=f"bar s{color % COLORS}"
            )
        )
        at += value
    if math.isfinite(row.low) and math.isfinite(row.high):
        y = top + pitch / 2
        parts.append(element("line", x1=x(row.low), x2=x(row.high), y1=y, y2=y, class_="error"))
    if row.note:
        parts.append(
            element("text", text(row.note), x=WIDTH - 2, y=top + pitch / 2 + 3.5, class_="tick", text_anchor="end")
        )
    return join(parts)
