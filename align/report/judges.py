"""Reward models and the choice among samples, drawn: accuracy by rating, best of N, temperatures, who won."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align.artifacts import Manifest
from align.errors import ArtifactError
from align.records import RATINGS
from align.report.charts import Bar, Series, bars, groups, lines
from align.report.figure import Figure, colors_of, legend_of, long_rows, without_intervals
from align.report.gather import Part, Run, value

HELD = "held_out/"


def accuracy(run: Run, best: Mapping[str, Any] | None) -> Iterator[Figure]:
    """Held-out accuracy of every reward model by rating, beside the best that could be reached.

    Args:
        run: the run.
        best: ceilings by held-out set and rating, where they are known.
    """
    models = {part.name: manifest for part, manifest in run.of("reward")}
    sets = dict.fromkeys(key.removeprefix(HELD) for m in models.values() for key in m.metrics if key.startswith(HELD))
    colors = colors_of(models)
    names = [*RATINGS, "all"]
    for held in sets:
        series = [_rated(name, m.metrics[HELD + held], names, colors[name])
                  for name, m in models.items() if HELD + held in m.metrics]  # fmt: skip
        series = [s for s in series if s.x]
        if not series:
            continue
        reachable = (best or {}).get(held, {})
        marks = [value(reachable.get("overall" if name == "all" else name, {}), "accuracy") for name in names]
        known = any(map(math.isfinite, marks))
        told = "; ".join(f"{s.name} {s.y[-1]:.1%}" for s in series)
        rows = [[row[0], names[int(s.x[i])], *row[2:]] for s in series for i, row in enumerate(long_rows([s]))]
        rows += [["ceiling", name, m, None, None] for name, m in zip(names, marks, strict=True) if math.isfinite(m)]
        yield Figure(
            key=f"accuracy-{held}",
            title=f"Reward-model accuracy by rating: {held}",
            caption="Held-out pairs in which the chosen answer scores higher, with 95 % Wilson intervals"
            + ("; the bar across is the best that anyone could reach." if known else "."),
            drawing=groups(
                names, series, f"Accuracy on {held}, over all ratings: {told}", "rating of the pair", "accuracy",
                shares=True, marks=marks if known else (),
            ),
            legend=legend_of(series),
            columns=("reward model", "rating", "accuracy", "low", "high"),
            rows=rows,
        )  # fmt: skip


def _rated(name: str, by_rating: Mapping[str, Any], names: Sequence[str], color: int) -> Series:
    known = [(x, by_rating[r]) for x, r in enumerate(names) if value(by_rating.get(r, {}), "accuracy") >= 0]
    return Series(
        name=name,
        x=[float(x) for x, _ in known],
        y=[value(cell, "accuracy") for _, cell in known],
        low=[value(cell, "low") for _, cell in known],
        high=[value(cell, "high") for _, cell in known],
        color=color,
    )


def rejection(run: Run) -> Iterator[tuple[str, list[Figure]]]:
    """(name, figures) of each round of rejection sampling (paper figures 7 and 8)."""
    for part, manifest in run.of("rejection"):
        found = list(_round(part, manifest))
        if found:
            yield part.name, found


def _round(part: Part, manifest: Manifest) -> Iterator[Figure]:
    curves = _curves(part)
    pooled = manifest.metrics.get("best_of_n") or []
    drawn = [({"policy": "all of them", "temperature": math.nan}, pooled)] if pooled else []
    samples = [(c, c["points"]) for c in curves.get("samples", [])]
    if len(samples) != 1:
        drawn += samples  # one policy alone is what is pooled
    elif not drawn:
        drawn = samples
    if drawn:
        yield _against_n(f"{part.name}-best-of-n", "Best and median of N samples", [
            (str(c["policy"]), points) for c, points in drawn], medians=True)  # fmt: skip
    probes = [(f"T = {c['temperature']:g}", c["points"]) for c in curves.get("temperatures", [])]
    if probes:
        yield _against_n(f"{part.name}-temperatures", "Best of N by temperature", probes, medians=False)
    found = manifest.metrics.get("temperature")
    if isinstance(found, dict) and found.get("curve"):
        yield _temperature(part, found)
    winners = manifest.metrics.get("winners") or []
    if winners:
        yield _winners(part, winners)


def _curves(part: Part) -> Mapping[str, Any]:
    path = part.folder / "curves.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _against_n(key: str, title: str, given: Sequence[tuple[str, Any]], *, medians: bool) -> Figure:
    series = []
    for color, (name, points) in enumerate(given):
        for what in ("max", "median") if medians else ("max",):
            series.append(
                Series(
                    name=f"{name}, {'best' if what == 'max' else what}" if medians else name,
                    x=[value(p, "n") for p in points],
                    y=[value(p, what) for p in points],
                    low=[value(p, f"{what}_low") for p in points],
                    high=[value(p, f"{what}_high") for p in points],
                    color=color,
                    kind="line" if what == "max" else "dashed",
                )
            )
    told = "; ".join(f"{s.name} {s.y[0]:.3g} at N = {s.x[0]:g}, {s.y[-1]:.3g} at N = {s.x[-1]:g}" for s in series)
    banded = medians and len(series) <= 4  # more would hide each other
    said = "; dashed: the median of N" if medians else ": which temperature gains most from N"
    ends = {x for s in series for x in s.x}
    return Figure(
        key=key,
        title=title,
        caption=f"Expected score over the prompts{said}{'; 95 % intervals shaded' if banded else ''}.",
        drawing=lines(
            series if banded else [without_intervals(s) for s in series], f"{title}: {told}", "N, samples a prompt",
            "combined score, logits",
            places=sorted(ends) if len(ends) <= 8 else None,
        ),
        legend=legend_of(series),
        columns=("series", "N", "score", "low", "high"),
        rows=long_rows(series),
    )  # fmt: skip


def _temperature(part: Part, found: Mapping[str, Any]) -> Figure:
    points = found["curve"]
    gaps = Series(
        name="difference",
        x=[value(p, "temperature") for p in points],
        y=[value(p, "to_chosen") for p in points],
        low=[value(p, "to_chosen_low") for p in points],
        high=[value(p, "to_chosen_high") for p in points],
    )
    keys = ("temperature", "expected_best", "standard_error", "to_chosen", "to_chosen_low", "to_chosen_high", "usable")
    return Figure(
        key=f"{part.name}-temperature",
        title="Temperature chosen",
        caption=f"Expected best of {found.get('n')} less that of the chosen T = {found.get('chosen')}, on the same "
        f"{found.get('prompts')} prompts, with 95 % intervals: one that holds 0 could as well have been chosen.",
        drawing=lines(
            [gaps], f"Temperature {found.get('chosen')} chosen of {', '.join(f'{x:g}' for x in gaps.x)}", "temperature",
            "difference, logits", places=list(gaps.x), joined=False,
        ),
        columns=keys,
        rows=[[value(p, key) for key in keys] for p in points],
    )  # fmt: skip


def _winners(part: Part, winners: Sequence[Mapping[str, Any]]) -> Figure:
    names = [str(w["policy"]) for w in winners]
    colors = colors_of(names)
    rows = [
        Bar(
            name=name,
            parts=[(100 * value(w, "share"), colors[name], "")],
            note=f"{value(w, 'share'):.1%}",
            low=100 * value(w, "low"),
            high=100 * value(w, "high"),
        )
        for name, w in zip(names, winners, strict=True)
    ]
    return Figure(
        key=f"{part.name}-winners",
        title="Whose sample won",
        caption="Share of the prompts whose best sample is of that version, with its 95 % Wilson interval.",
        drawing=bars(rows, "Winners: " + ", ".join(f"{row.name} {row.note}" for row in rows), "prompts won, %"),
        columns=("policy", "won", "share", "low", "high"),
        rows=[
            [str(w["policy"]), int(value(w, "won")), *(value(w, k) for k in ("share", "low", "high"))] for w in winners
        ],
    )
