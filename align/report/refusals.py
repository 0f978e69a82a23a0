"""Who declined what: refusals of what should, and of what should not, be declined, by where the prompts come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.report.gather import read_rows
from align.report.sources import ANSWERS, prompts_of_answers
from align.report.summary import interval, percent, plus_minus
from align.report.tables import Cell, Table
from align.stats import proportion


def by_policy(folder: Path) -> dict[str, list[Mapping[str, Any]]]:
    """The answers of an evaluation, each with its prompt's ``source`` and ``kind``; none where the prompts are gone."""
    prompts = prompts_of_answers(folder)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in read_rows(folder / ANSWERS) if prompts else ():
        prompt = prompts[row["prompt_id"]]
        found.setdefault(row["policy"], []).append({**row, "source": prompt.source, "kind": prompt.kind})
    return found


def refusals(folder: Path) -> Table | None:
    """One row a sort of prompts, one column a policy: how many answers declined, with 95 % Wilson intervals.

    Args:
        folder: of an evaluation.

    Returns:
        None where nobody judged refusals, only one of the two was asked for, or the prompts' file is gone or another
        one now.
    """
    answers = by_policy(folder)
    judged = [row for rows in answers.values() for row in rows if "should_refuse" in row]
    if len({row["should_refuse"] for row in judged}) < 2:
        return None
    lines: list[list[Cell]] = []
    for should, name in ((False, "false refusals"), (True, "true refusals")):
        sources = sorted({row["source"] for row in judged if row["should_refuse"] is should})
        for source in (None, *(sources if len(sources) > 1 else ())):
            cells = [_declined(rows, should, source) for rows in answers.values()]
            shown = "all" if source is None else source or "no source"
            lines.append([name, shown, max(cell["n"] for cell in cells), *map(interval, cells)])
    columns = ("", "prompts", "number", *answers)
    return Table("Refusals by source of the prompts, % (95 % interval)", columns, lines)


def _declined(rows: Sequence[Mapping[str, Any]], should: bool, source: str | None) -> dict[str, Any]:
    mine = [row for row in rows if row.get("should_refuse") is should and source in (None, row["source"])]
    return proportion([float(row["refused"]) for row in mine])


def distilled(name: str, metrics: Mapping[str, Any]) -> Table:
    """What safety context distillation gained, by risk category; ``metrics`` of its manifest."""
    lines: list[list[Cell]] = []
    for category, cell in (*metrics["categories"].items(), ("all", metrics["all"])):
        means = [
            plus_minus({"mean": cell[k]["value"], "se": cell[k]["se"]}, 2) for k in ("original", "distilled", "gain")
        ]
        trained = percent((cell["distilled_rows"] + cell["original_rows"]) / cell["prompts"])
        lines.append([category, cell["prompts"], *means, interval(cell["better"]), trained])
    columns = (
        "risk category", "prompts", "original, logits", "distilled", "gain", "scored above, % (95 % interval)",
        "trained on",
    )  # fmt: skip
    gate = "gated" if metrics["gate"] else "without the gate"
    return Table(f"Safety context distillation: {name}, {gate} (safety score ± standard error)", columns, lines)
