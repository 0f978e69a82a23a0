"""What an evaluation measured, drawn: policies side by side, what each gained, how long each obeys, how scores move."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from align.artifacts import Manifest
from align.report.across import gain
from align.report.charts import Bar, Series, bars, groups, histogram, lines, ridges
from align.report.figure import Figure, colors_of, legend_of, long_rows, shares_of, without_intervals
from align.report.gather import Part, Row, Run, combined, read_rows, value

Z = 1.96  # normal quantile of a 95 % interval
BINS = 40
FAR = 5.0  # times the next value: left off the axis, and told
MOST_ROWS = 200_000  # of a rollout file; a distribution needs no more
Measured = Mapping[str, Any]


def measured_of(manifest: Manifest) -> Mapping[str, Measured]:
    """What an evaluation measured, by policy."""
    found = manifest.metrics.get("policies")
    return found if isinstance(found, dict) else {}


def versions(part: Part, manifest: Manifest) -> Iterator[Figure]:
    """Means and shares of every policy with their 95 % intervals."""
    policies = measured_of(manifest)
    names = list(policies)
    for key, title, unit in (
        ("helpful", "Helpfulness", "judge's score"),
        ("reward", "Reward", "logits"),
        ("kl", "KL to the reference", "nats an answer"),
        ("tokens", "Answer length", "tokens"),
    ):
        cells = [policies[name].get(key) for name in names]
        if any(isinstance(cell, dict) for cell in cells):
            found, far = (
                _near(_means(title.lower(), names, cells, 0))
                if key == "kl"
                else (_means(title.lower(), names, cells, 0), [])
            )
            caption = "Mean over the held-out prompts with its 95 % interval."
            caption += "".join(f" Off the scale: {names[int(x)]}, {y:.3g}." for x, y in far)
            yield _by_version(f"{part.name}-{key}", title, caption, names, [found], unit, zero=key != "reward")
    for judge in dict.fromkeys(judge for m in policies.values() for judge in m.get("judges", {})):
        found = _means(judge, names, [policies[name].get("judges", {}).get(judge) for name in names], 0)
        if found.x:
            caption = "Mean over the held-out prompts with its 95 % interval."
            title = f"Score of {judge}"
            yield _by_version(f"{part.name}-judge-{judge}", title, caption, names, [found], "score", zero=False)
    shares = [
        shares_of(title, ((float(x), policies[name].get(key)) for x, name in enumerate(names)), color)
        for color, (key, title) in enumerate([("unsafe", "unsafe answers"), ("false_refusals", "false refusals")], 1)
    ]
    shares = [found for found in shares if found.x]
    if shares:
        yield _by_version(
            f"{part.name}-safety",
            "Unsafe answers and false refusals",
            "Share of the prompts that should be refused, and of the others, with 95 % Wilson intervals.",
            names,
            shares,
            "share of answers",
            zero=True,
            as_share=True,
        )


def _by_version(
    key: str,
    title: str,
    caption: str,
    names: Sequence[str],
    series: Sequence[Series],
    unit: str,
    *,
    zero: bool,
    as_share: bool = False,
) -> Figure:
    told = "; ".join(
        f"{s.name}: " + ", ".join(f"{names[int(x)]} {y:.3g}" for x, y in zip(s.x, s.y, strict=True)) for s in series
    )
    return Figure(
        key=key,
        title=title,
        caption=caption,
        drawing=groups(names, series, f"{title}. {told}", "policy", unit, shares=as_share, zero=zero),
        legend=legend_of(series) if len(series) > 1 else [],
        columns=("measure", "policy", "value", "low", "high"),
        rows=[[row[0], names[int(x)], *row[2:]] for s in series for row, x in zip(long_rows([s]), s.x, strict=True)],
    )


def _means(name: str, names: Sequence[str], cells: Sequence[Any], color: int) -> Series:
    known = [(x, cell) for x, cell in enumerate(cells) if isinstance(cell, dict) and cell.get("mean") is not None]
    y = [value(cell, "mean") for _, cell in known]
    error = [0.0 if math.isnan(value(cell, "se")) else Z * value(cell, "se") for _, cell in known]
    return Series(
        name=name,
        x=[float(x) for x, _ in known],
        y=y,
        low=[v - e for v, e in zip(y, error, strict=True)],
        high=[v + e for v, e in zip(y, error, strict=True)],
        color=color,
    )


def _near(s: Series) -> tuple[Series, list[tuple[float, float]]]:
    """Without the one value that lies so far above all others that they could not be told apart."""
    if len(s.y) < 3:
        return s, []
    second, top = sorted(s.y)[-2:]
    if top <= FAR * max(second, 0.0):
        return s, []
    keep = [i for i, y in enumerate(s.y) if y != top]
    near = Series(
        name=s.name,
        x=[s.x[i] for i in keep],
        y=[s.y[i] for i in keep],
        low=[s.low[i] for i in keep],
        high=[s.high[i] for i in keep],
        color=s.color,
    )
    return near, [(s.x[i], s.y[i]) for i in range(len(s.y)) if i not in keep]


def gains(part: Part, manifest: Manifest) -> Figure | None:
    """What each policy gained in helpfulness on the one before it."""
    policies = measured_of(manifest)
    names = [name for name, m in policies.items() if isinstance(m.get("helpful"), dict)]
    if len(names) < 2:
        return None
    rows: list[Bar] = []
    data: list[list[str | float | None]] = []
    for before, after in pairwise(names):
        found, error = gain([policies[before]], [policies[after]])
        known = math.isfinite(error) and error > 0
        rows.append(
            Bar(
                name=after,
                parts=[(found, 2 if found >= 0 else 1, "")],
                note=f"{found:+.3f}" + (f" · {found / error:+.1f} s.e." if known else ""),
                low=found - Z * error if known else math.nan,
                high=found + Z * error if known else math.nan,
            )
        )
        data.append([before, after, found, error if known else None])
    told = ", ".join(f"{row.name} {row.note}" for row in rows)
    return Figure(
        key=f"{part.name}-gains",
        title="What each step gained",
        caption="Helpfulness over that of the policy before, with its 95 % interval, and in standard errors.",
        drawing=bars(rows, f"Gain in helpfulness: {told}", "gain in helpfulness"),
        columns=("from", "to", "gain", "standard error"),
        rows=data,
    )


def kept(part: Part, manifest: Manifest) -> Iterator[Figure]:
    """Share of dialogues whose answer at a turn keeps the first turn's instruction, whole and by sort."""
    policies = measured_of(manifest)
    by_sort: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, m in policies.items():
        if isinstance(m.get("kept"), dict):
            by_sort["all instructions"][name] = m["kept"]
        for sort, found in m.get("kept_by_source", {}).items():
            by_sort[sort][name] = found
    colors = colors_of(policies)
    if len(by_sort) == 2:  # one sort, which is all
        by_sort.popitem()
    for number, (sort, by_policy) in enumerate(by_sort.items()):
        series = [
            shares_of(name, ((float(turn), cell) for turn, cell in by_turn.items()), colors[name])
            for name, by_turn in by_policy.items()
        ]
        series = [s for s in series if s.x]
        if not series:
            continue
        counted = max(int(cell.get("n") or 0) for by_turn in by_policy.values() for cell in by_turn.values())
        turns = sorted({x for s in series for x in s.x})
        told = "; ".join(f"{s.name} {s.y[0]:.0%} at turn {s.x[0]:g}, {s.y[-1]:.0%} at turn {s.x[-1]:g}" for s in series)
        # the ends of the policies' bands hide each other: they are in the data, and in the drawing of two at most
        shown = series if len(series) <= 2 else [without_intervals(s) for s in series]
        yield Figure(
            key=f"{part.name}-kept-{number}",
            title=f"Instruction kept: {sort}",
            caption=f"Share of {counted} dialogues whose answer at that turn still keeps the first turn's instruction.",
            drawing=lines(
                shown, f"Instruction kept by turn, {sort}: {told}", "turn", "share of dialogues", shares=True,
                zero=True, places=turns,
            ),
            legend=legend_of(series),
            columns=("policy", "turn", "share", "low", "high"),
            rows=long_rows(series),
        )  # fmt: skip


def shift(part: Part, answers: Sequence[Row]) -> Iterator[Figure]:
    """Distribution of the scores of a version's answers on the held-out prompts (paper figure 20)."""
    named = dict.fromkeys(name for row in answers for name in row.get("judges", {}))
    for key, title, unit, read in (
        ("reward", "Reward distribution by version", "combined score, logits", combined),
        ("helpful", "Helpfulness distribution by version", "judge's score", lambda row: value(row, "helpful")),
        *(
            (
                f"judge-{name}",
                f"Scores of {name} by version",
                f"score of {name}",
                lambda row, name=name: value(row.get("judges", {}), name),
            )
            for name in named
        ),
    ):
        values: dict[str, list[float]] = defaultdict(list)
        for row in answers:
            if math.isfinite(found := read(row)):
                values[str(row.get("policy"))].append(found)
        caption = "Share of the answers to the held-out prompts; the upright line is the mean."
        if made := _distribution(f"{part.name}-{key}-shift", title, caption, unit, values):
            yield made


def rollout_scores(run: Run) -> Iterator[Figure]:
    """Distribution of what reward models said of every version's samples, from each rejection round."""
    for part, _ in run.of("rejection"):
        values: dict[str, list[float]] = defaultdict(list)
        for row in read_rows(part.folder / "rollouts.jsonl", MOST_ROWS):
            if math.isfinite(found := combined(row)):
                values[str(row.get("policy"))].append(found)
        caption = (
            f"Combined score of all {sum(map(len, values.values())):,} samples of {part.name}, "
            "by one pair of reward models; the upright line is the mean."
        )
        title = f"Reward distribution by version: {part.name}"
        if made := _distribution(f"{part.name}-scores", title, caption, "combined score, logits", values):
            yield made


def _distribution(
    key: str, title: str, caption: str, unit: str, values: Mapping[str, Sequence[float]]
) -> Figure | None:
    if not values:
        return None
    ordered = sorted(v for found in values.values() for v in found)
    # a few outliers would squeeze everything else: they count in the outer bins
    low, high = ordered[int(0.002 * (len(ordered) - 1))], ordered[math.ceil(0.998 * (len(ordered) - 1))]
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = min(BINS, max(8, len(set(ordered))))
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    colors = colors_of(values)
    told = ", ".join(f"{name} mean {math.fsum(v) / len(v):.3g}" for name, v in values.items())
    return Figure(
        key=key,
        title=title,
        caption=caption,
        drawing=ridges([(name, colors[name], v) for name, v in values.items()], edges, f"{title}: {told}", unit),
        columns=("policy", "answers", "mean", "from", "to", "share"),
        rows=[
            [name, len(found), math.fsum(found) / len(found), a, b, share]
            for name, found in values.items()
            for a, b, share in zip(edges, edges[1:], histogram(found, edges), strict=False)
        ],
    )
