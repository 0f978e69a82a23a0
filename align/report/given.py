"""Figures that a stage left in its artifact as data, drawn as they are.

``figures.json`` is a list of {name, title, x, y, series}; a series is {name, points: [[x, y], …]} and, where there are
intervals, ``low`` and ``high``, one a point. An x that is text is a category. ``report.json`` of a reward model holds
such lists by held-out set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import ArtifactError
from align.report.against_kl import against_kl
from align.report.along import along
from align.report.charts import Series, groups, lines
from align.report.figure import Figure, legend_of
from align.report.gather import Part, Run

FIGURES, REPORT = "figures.json", "report.json"


def given(run: Run) -> Iterator[tuple[str, list[Figure]]]:
    """(heading, figures) of every artifact that brought some; of reward models only the last of each line.

    Raises:
        ArtifactError: a file that is no JSON, or a figure that lacks something.
    """
    parents = {p["sha256"] for _, m in run.of("reward") for p in m.parents}
    for part in run.parts:
        if part.manifest is None:
            continue
        for where, listed in _lists(part):
            superseded = part.stage == "reward" and _digest(part) in parents
            if listed and not superseded:
                key = f"{part.name}-{where}" if where else part.name
                found = [_figure(f, key, part.folder) for f in listed]
                yield f"{part.name} on {where}" if where else part.name, found


def _digest(part: Part) -> str:
    from align.artifacts import folder_digest

    return folder_digest(part.folder)


def _lists(part: Part) -> Iterator[tuple[str, Sequence[Any]]]:
    found = _json(part.folder / FIGURES)
    if isinstance(found, list):
        yield "", found
    if part.stage == "evaluate" and part.manifest:
        yield "", along(part.folder, part.manifest)[1]
        yield "", against_kl(part.manifest)[1]
    report = _json(part.folder / REPORT)
    sets = report.get("sets") if isinstance(report, dict) else None
    for name, told in sets.items() if isinstance(sets, dict) else ():
        if isinstance(told, dict):
            yield str(name), told.get("figures", [])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error


def _figure(told: Mapping[str, Any], key: str, folder: Path) -> Figure:
    try:
        name, title, x, y = (str(told[k]) for k in ("name", "title", "x", "y"))
        series = told["series"]
        ats = [at for s in series for at, _ in s["points"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: a figure: {error!r}: expected name, title, x, y and series of points [x, y]"
        ) from error
    names = list(dict.fromkeys(str(at) for at in ats)) if any(isinstance(at, str) for at in ats) else None
    drawn = [
        Series(
            name=str(s["name"]),
            x=[float(names.index(str(at)) if names else at) for at, _ in s["points"]],
            y=[_number(v) for _, v in s["points"]],
            low=[_number(v) for v in s.get("low", ())],
            high=[_number(v) for v in s.get("high", ())],
            color=color,
        )
        for color, s in enumerate(series)
    ]
    label = f"{title}: {', '.join(s.name for s in drawn)}"
    shares = [v for s in drawn for v in (*s.y, *s.low, *s.high) if math.isfinite(v)]
    zero = bool(shares) and min(shares) >= 0
    picture = groups(names, drawn, label, x, y, zero=zero) if names else lines(drawn, label, x, y, zero=zero)
    return Figure(
        key=f"{key}-{name}",
        title=title,
        caption=f"{y[:1].upper()}{y[1:]} against {x}" + ("; 95 % intervals." if any(s.low for s in drawn) else "."),
        drawing=picture,
        legend=legend_of(drawn) if len(drawn) > 1 else [],
        columns=("series", x, y, "low", "high"),
        rows=[
            [s.name, names[int(at)] if names else at, *(v if math.isfinite(v) else None for v in (value, low, high))]
            for s in drawn
            for at, value, low, high in zip(
                s.x, s.y, s.low or [math.nan] * len(s.x), s.high or [math.nan] * len(s.x), strict=True
            )
        ],
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
