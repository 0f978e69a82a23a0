"""The frame of a chart: scales, round ticks, their labels, a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from align.report.markup import Markup, element, join, text

WIDTH, HEIGHT = 360.0, 230.0  # viewBox units, which a phone shows at about one pixel each
RIGHT, TOP, BOTTOM = 12.0, 12.0, 42.0
CHARACTER = 6.4  # mean advance of a digit at the axis's font size
ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to coordinates, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Round values from below ``low`` to above ``high``, evenly spaced by 1, 2, 2.5 or 5 times a power of ten.

    Args:
        low: least value to be shown.
        high: greatest; equal to ``low`` where there is only one.
        most: at most so many, at least 2.
        whole: only whole numbers.
    """
    if high <= low:
        pad = abs(low) / 2 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (*ROUND, 20.0, 25.0, 50.0):
        step = factor * power
        if whole and not step.is_integer():
            continue
        # what lies a hair beyond a tick, a zero that was rounded say, does not ask for another
        first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
        if last - first + 1 <= most:
            break
    return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]


def plain(values: Sequence[float]) -> Format:
    """How to write ticks: as many decimals as their step needs; powers of ten for what is tiny or huge."""
    largest = max(map(abs, values), default=0.0)
    if largest and (largest < 1e-3 or largest >= 1e6):
        return lambda value: "0" if value == 0 else f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    step = abs(values[1] - values[0]) if len(values) > 1 else largest or 1.0
    decimals = next((d for d in range(8) if abs(round(step, d) - step) < step * 1e-6), 8)
    return lambda value: f"{value:,.{decimals}f}".replace("-", "−")


def percent(values: Sequence[float]) -> Format:
    """Shares as per cent."""
    inner = plain([100 * value for value in values])
    return lambda value: f"{inner(100 * value)} %"


@dataclass(frozen=True, slots=True)
class Frame:
    """Both scales of a chart and the markup of its axes."""

    x: Scale
    y: Scale
    markup: Markup


def frame(
    xs: Iterable[float],
    ys: Iterable[float],
    x_label: str,
    y_label: str,
    *,
    shares: bool = False,
    names: Sequence[str] | None = None,
    zero: bool = False,
    places: Sequence[float] | None = None,
) -> Frame:
    """Axes that hold all values.

    Args:
        xs: finite values along x.
        ys: finite values along y; shares in [0, 1] with ``shares``.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        shares: write y in per cent.
        names: categories at x = 0, 1, …, in place of numbers.
        zero: let y begin at 0.
        places: where x has its ticks, in place of round numbers.
    """
    xs, ys = [*xs] or [0.0, 1.0], [*ys] or [0.0, 1.0]
    low = min(0.0, *ys) if zero else min(ys)
    y_ticks = ticks(low, max(ys))
    if shares:
        y_ticks = [tick for tick in y_ticks if -1e-9 <= tick <= 1 + 1e-9] or [0.0, 1.0]
    write = (percent if shares else plain)(y_ticks)
    left = 28 + CHARACTER * max(len(write(tick)) for tick in y_ticks)
    y = Scale(min(y_ticks[0], low), max(y_ticks[-1], max(ys)), HEIGHT - BOTTOM, TOP)
    if names is not None:
        x = Scale(-0.5, len(names) - 0.5, left, WIDTH - RIGHT)
        marks = [(float(place), name) for place, name in enumerate(names)]
    else:
        counted = all(float(v).is_integer() for v in xs) and max(xs) - min(xs) >= 1
        steps = list(places) if places is not None else ticks(min(xs), max(xs), whole=counted)
        written = plain(steps)
        low_x, high_x = min(xs), max(xs)
        if low_x == high_x:
            low_x, high_x = steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1
        x = Scale(low_x, high_x, left + 4, WIDTH - RIGHT - 4)
        marks = [(tick, written(tick)) for tick in steps if low_x - 1e-9 <= tick <= high_x + 1e-9]
    parts = [_horizontal(y(tick), left, write(tick)) for tick in y_ticks]
    labels, foot = _labels(x, marks)
    parts += labels
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [
        element("text", text(x_label), x=(left + WIDTH - RIGHT) / 2, y=foot, class_="axis", text_anchor="middle"),
        element(
            "text", text(y_label), x=10.0, y=middle, class_="axis", text_anchor="middle",
            transform=f"rotate(-90 10 {middle:g})",
        ),
    ]  # fmt: skip
    return Frame(x, y, element("g", *parts, class_="frame", aria_hidden="true"))


def _horizontal(y: float, left: float, label: str) -> Markup:
    line = element("line", x1=left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
    return join([line, element("text", text(label), x=left - 6, y=y + 3.5, class_="tick", text_anchor="end")])


def _labels(x: Scale, marks: Sequence[tuple[float, str]]) -> tuple[list[Markup], float]:
    """Ticks of x, every second label one line lower where they would touch; and where the axis's name goes."""
    gap = min((abs(x(b) - x(a)) for (a, _), (b, _) in pairwise(marks)), default=WIDTH)
    widest = CHARACTER * max((len(label) for _, label in marks), default=0)
    rows = 2 if widest > gap - 4 else 1
    foot = HEIGHT - BOTTOM
    found = []
    for index, (value, label) in enumerate(marks):
        y = foot + 13 + 10.5 * (index % rows) - (1 if rows == 2 else 0)
        found.append(element("line", x1=x(value), x2=x(value), y1=foot, y2=foot + 4, class_="grid"))
        found.append(
            element("text", text(_short(label, gap * rows)), x=x(value), y=y, class_="tick", text_anchor="middle")
        )
    return found, foot + (37.0 if rows == 2 else 29.0)


def _short(label: str, room: float) -> str:
    most = max(3, int(room / CHARACTER))
    return label if len(label) <= most else f"{label[: most - 1]}…"
