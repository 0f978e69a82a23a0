"""The top of the page: what the run is, and the last policy beside where it came from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from align.energy import carbon_kg
from align.report import cost, verdicts
from align.report.cost import Power
from align.report.gather import Run, value
from align.report.markup import Markup, element, text


def header(run: Run, power: Power) -> Markup:
    """Name, state and origin of the run, and its few most asked-for numbers."""
    done = sum(part.manifest is not None for part in run.parts)
    going = [f"{part.name} {part.state}" for part in run.parts if part.manifest is None and part.state != "waiting"]
    states = f"{done} of {len(run.parts)} stages finished" + (f" · {', '.join(going)}" if going else "")
    manifests = list(run.finished.values())
    facts = [states] if len(run.parts) > 1 or going else [f"stage {run.parts[0].stage}"]
    if manifests:
        newest = max(manifests, key=lambda m: m.created)
        facts.append(f"{newest.created[:16].replace('T', ' ')} UTC")
        seeds = dict.fromkeys(m.seed for m in manifests)
        facts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
        facts.append(f"align {newest.library}" + (f", commit {newest.git_commit[:12]}" if newest.git_commit else ""))
    name = run.recipe.get("pipeline")
    return element(
        "header",
        element("p", text(f"pipeline {name}" if name else "align report"), class_="over"),
        element("h1", text(run.title)),
        element("p", text(" · ".join(facts)), class_="facts"),
        element("ul", *_tiles(run, power), class_="tiles"),
    )


def _tiles(run: Run, power: Power) -> Iterator[Markup]:
    """The last policy beside where it came from, and what it took."""
    for _, manifest in run.of("evaluate"):
        policies = verdicts.measured_of(manifest)
        if not policies:
            continue
        names, paths = list(policies), manifest.recipe.get("policies", {})
        start = next((n for n in names if paths.get(n) == manifest.recipe.get("reference")), names[0])
        before, after = policies[start], policies[names[-1]]
        for key, title in (
            ("helpful", "helpfulness"),
            ("reward", "reward, logits"),
            ("unsafe", "unsafe answers"),
            ("false_refusals", "false refusals"),
            ("kl", "KL, nats an answer"),
        ):
            now, then = _headline(after.get(key)), _headline(before.get(key))
            if now:
                yield _tile(title, now, f"{names[-1]}; {start}: {then}" if then and start != names[-1] else names[-1])
        turns = list(after.get("kept", {}))
        if turns and (now := _headline(after["kept"][turns[-1]])):
            then = _headline(before.get("kept", {}).get(turns[-1]))
            yield _tile(f"instruction kept at turn {turns[-1]}", now, f"{names[-1]}; {start}: {then or '–'}")
        break
    seconds = [s for part in run.parts if math.isfinite(s := cost.seconds_of(part))]
    if seconds:
        peaks = [g for part in run.parts if math.isfinite(g := value(part.usage, "peak_gib"))]
        yield _tile("time", _about(math.fsum(seconds)), f"peak {max(peaks):.2f} GiB" if peaks else "")
    found = [energy for part in run.parts if (energy := cost.spent(part, power))]
    if found:
        wh = sum(energy.wh for energy in found)
        how = " and ".join(sorted({energy.how for energy in found}))
        grams = 1000 * carbon_kg(wh, power.kg_per_kwh)
        yield _tile("energy", f"{wh:.1f} Wh", f"{grams:.1f} g CO₂e, {how}")


def _headline(cell: Any) -> str:
    """A share or a mean for a tile; empty where it is not known."""
    if not isinstance(cell, Mapping):
        return ""
    if cell.get("share") is not None:
        return f"{100 * cell['share']:.1f} %"
    return f"{cell['mean']:.2f}".replace("-0.00", "0.00") if cell.get("mean") is not None else ""


def _about(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _tile(title: str, now: str, then: str) -> Markup:
    return element(
        "li",
        element("span", text(title), class_="label"),
        element("strong", text(now)),
        element("span", text(then), class_="then"),
    )
