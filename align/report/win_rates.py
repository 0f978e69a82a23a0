"""Every two policies of an evaluation side by side: who wins how often, as a table and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import ArtifactError
from align.report.charts import groups
from align.report.figure import Figure, colors_of, legend_of, shares_of
from align.report.tables import Cell, Table

FILE = "win_rates.json"
TITLE = "Win rates"
Pair = Mapping[str, Any]


def read_pairs(folder: Path) -> tuple[list[Pair], int]:
    """The pairs of an evaluation and the number of its prompts; none where it has none.

    Raises:
        ArtifactError: a file that is no such document.
    """
    path = folder / FILE
    if not path.is_file():
        return [], 0
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return list(found["pairs"]), int(found["prompts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: expected the win rates of an evaluation: {error!r}") from error


def win_rates(folder: Path) -> Table | None:
    """One row a judge and pair: wins of one policy over another, ties apart, and what is left at equal length.

    Args:
        folder: of an evaluation.

    Returns:
        None where no two policies were compared.
    """
    pairs, prompts = read_pairs(folder)
    rows: list[list[Cell]] = [
        [pair["judge"], pair["first"], pair["second"], _percent(pair), _percent(pair["length_controlled"]),
         pair["wins"], pair["losses"], pair["ties"]]
        for pair in pairs
    ]  # fmt: skip
    if not rows:
        return None
    columns = ("judge", "policy", "against", "wins, %", "at equal length, %", "wins", "losses", "ties")
    return Table(f"{TITLE} on {prompts} prompts: wins / (wins + losses) (95 % interval)", columns, rows)


def _percent(cell: Mapping[str, Any]) -> str:
    if cell["share"] is None:
        return "–"
    return f"{100 * cell['share']:.1f} ({100 * cell['low']:.1f}–{100 * cell['high']:.1f})"


def drawn(folder: Path, part: str) -> Iterator[Figure]:
    """By judge, each policy's win rate over every earlier one: of all answers, and at equal length."""
    pairs, prompts = read_pairs(folder)
    for judge in dict.fromkeys(pair["judge"] for pair in pairs):
        here = [pair for pair in pairs if pair["judge"] == judge]
        key = f"{part}-wins-{judge}"
        caption = f"Wins / (wins + losses) on {prompts} prompts, ties left out, with 95 % Wilson intervals."
        if made := _figure(key, f"Win rate: {judge}", caption, here, [(pair, pair) for pair in here]):
            yield made
        caption = "What the win rate would be if both answers were of one length (arXiv 2404.04475), 95 % intervals."
        cells = [(pair, pair["length_controlled"]) for pair in here]
        if made := _figure(f"{key}-length", f"Win rate at equal length: {judge}", caption, here, cells):
            yield made


def _figure(
    key: str, title: str, caption: str, pairs: Sequence[Pair], cells: Sequence[tuple[Pair, Mapping[str, Any]]]
) -> Figure | None:
    names = list(dict.fromkeys(pair["first"] for pair in pairs))
    against = list(dict.fromkeys(pair["second"] for pair in pairs))
    colors = colors_of([*against, *names])
    series = [
        shares_of(
            f"against {opponent}",
            [(float(names.index(p["first"])), cell) for p, cell in cells if p["second"] == opponent],
            colors[opponent],
        )
        for opponent in against
    ]
    series = [s for s in series if s.x]
    if not series:
        return None
    told = "; ".join(f"{names[int(x)]} {s.name} {y:.1%}" for s in series for x, y in zip(s.x, s.y, strict=True))
    return Figure(
        key=key,
        title=title,
        caption=f"{caption} The bar across is one half.",
        drawing=groups(
            names, series, f"{title}. {told}", "policy", "share won", shares=True, marks=[0.5] * len(names)
        ),
        legend=legend_of(series),
        columns=("policy", "against", "share won", "low", "high", "wins", "losses", "ties"),
        rows=[
            [p["first"], p["second"], cell["share"], cell["low"], cell["high"], p["wins"], p["losses"], p["ties"]]
            for p, cell in cells
        ],
    )  # fmt: skip
