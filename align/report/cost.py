"""What a run took: time, memory, tokens a second, energy and carbon."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from align.energy import JOULES_PER_WH, KG_PER_KWH, PUE, carbon_kg, energy_wh
from align.report.charts import Bar, bars
from align.report.figure import Figure, colors_of
from align.report.gather import Part, Run, value
from align.report.tables import Table

STAGES = (
    "world", "people", "time", "convert", "pretrain", "sft", "reward", "rejection", "ghost", "distill", "ppo",
    "evaluate", "attention", "exam",
)  # fmt: skip
RATES = ("counted_per_second", "tokens_per_second")  # the first of them that a stage logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What is taken for granted where the machine counts no energy.

    Attributes:
        watts: drawn by the whole machine while a stage runs; None where nobody stated them.
        pue: facility power over machine power.
        kg_per_kwh: CO2 equivalent of the grid.
    """

    watts: float | None = None
    pue: float = PUE
    kg_per_kwh: float = KG_PER_KWH


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Energy of one part; ``how`` says whether it was counted."""

    wh: float
    how: str  # measured, stated


def stage_colors() -> Mapping[str, int]:
    """One colour a kind of stage, the same all over the page."""
    return {"world": 7, "people": 7, "convert": 7, "pretrain": 6, "sft": 0, "reward": 4, "rejection": 2, "ghost": 5,
            "distill": 5, "ppo": 3, "evaluate": 1, "attention": 1, "exam": 1, "time": 7}  # fmt: skip


def seconds_of(part: Part) -> float:
    """Seconds that the part took, NaN where nobody counted."""
    return value(part.usage, "seconds")


def spent(part: Part, power: Power) -> Spent | None:
    """Energy of a part, the facility's share included: counted, else from its seconds and the stated watts."""
    joules = part.usage.get("joules")
    if isinstance(joules, dict) and joules:
        return Spent(wh=power.pue * math.fsum(joules.values()) / JOULES_PER_WH, how="measured")
    seconds = seconds_of(part)
    if power.watts is None or math.isnan(seconds):
        return None
    return Spent(wh=energy_wh(seconds / 3600, power.watts, power.pue), how="stated")


def costs(run: Run, power: Power) -> Table | None:
    """One row a stage and one of the sum: time, memory, tokens a second, energy, CO2."""
    rows: list[list[str]] = []
    known = [part for part in run.parts if math.isfinite(seconds_of(part)) or part.timings]
    if not known:
        return None
    for part in known:
        energy = spent(part, power)
        rows.append(
            [
                part.name,
                part.stage,
                duration(seconds_of(part)),
                _gib(value(part.usage, "peak_gib")),
                _rate(tokens_per_second(part)),
                f"{energy.wh:.2f}" if energy else "–",
                f"{1000 * carbon_kg(energy.wh, power.kg_per_kwh):.2f}" if energy else "–",
                energy.how if energy else "–",
            ]
        )
    energies = [energy for part in known if (energy := spent(part, power))]
    total = math.fsum(energy.wh for energy in energies)
    hows = sorted({energy.how for energy in energies})
    rows.append(
        [
            "all",
            "",
            duration(math.fsum(s for part in known if math.isfinite(s := seconds_of(part)))),
            _gib(max((g for part in known if math.isfinite(g := value(part.usage, "peak_gib"))), default=math.nan)),
            "–",
            f"{total:.2f}" if energies else "–",
            f"{1000 * carbon_kg(total, power.kg_per_kwh):.2f}" if energies else "–",
            " and ".join(hows) or "–",
        ]
    )
    columns = [
        "artifact",
        "stage",
        "time",
        "peak memory",
        "tokens/s (reward: pairs/s)",
        "energy, Wh",
        "CO₂e, g",
        "energy is",
    ]
    return Table("Time, memory, energy", columns, rows)


def explain(run: Run, power: Power) -> str:
    """How the energy was come by, in words."""
    hows = {energy.how for part in run.parts if (energy := spent(part, power))}
    counters = sorted({name for part in run.parts for name in part.usage.get("joules") or {}})
    factor = f"PUE {power.pue:g}; {power.kg_per_kwh:g} kg CO₂e a kWh"
    if hows == {"measured"}:
        return f"Measured: {', '.join(counters)}, all that ran on the machine; times {factor}."
    stated = f"hours × {power.watts:g} W stated for the whole machine × {factor}" if power.watts is not None else ""
    if hows == {"stated"}:
        return f"Not measured: {stated}."
    if hows:
        return f"Measured where it says so ({', '.join(counters)}), else {stated}."
    return (
        "Energy was not measured, the machine having no counter that can be read, and no watts were stated (--watts)."
    )


def tokens_per_second(part: Part) -> float:
    """Median rate over the updates, in counted tokens (or pairs, for a reward model) a second; NaN where not logged."""
    for key in RATES:
        rates = [rate for row in part.timings if math.isfinite(rate := value(row, key))]
        if rates:
            return statistics.median(rates)
    return math.nan


def times(run: Run) -> Figure | None:
    """Seconds of every stage."""
    known = [part for part in run.parts if math.isfinite(seconds_of(part))]
    if not known:
        return None
    whole = math.fsum(map(seconds_of, known))
    colors = stage_colors()
    rows = [
        Bar(
            name=part.name,
            parts=[(seconds_of(part), colors.get(part.stage, 7), part.stage)],
            note=f"{duration(seconds_of(part))} · {seconds_of(part) / whole:.0%}" if whole else "",
        )
        for part in known
    ]
    return Figure(
        key="times",
        title="Time by stage",
        caption=f"{duration(whole)} together, attempts that were interrupted among them.",
        drawing=bars(rows, "Seconds by stage: " + ", ".join(f"{r.name} {r.note}" for r in rows), "seconds"),
        columns=("artifact", "stage", "seconds"),
        rows=[[part.name, part.stage, seconds_of(part)] for part in known],
    )


def memory(run: Run) -> Figure | None:
    """Peak host memory of every stage."""
    known = [part for part in run.parts if math.isfinite(value(part.usage, "peak_gib"))]
    if not known:
        return None
    colors = stage_colors()
    rows = [
        Bar(name=p.name, parts=[(g := value(p.usage, "peak_gib"), colors.get(p.stage, 7), p.stage)], note=f"{g:.2f}")
        for p in known
    ]
    return Figure(
        key="memory",
        title="Peak memory by stage",
        caption="Host memory of the stage's processes together, shared pages counted once.",
        drawing=bars(rows, "Peak GiB by stage: " + ", ".join(f"{r.name} {r.note}" for r in rows), "GiB"),
        columns=("artifact", "stage", "GiB"),
        rows=[[part.name, part.stage, value(part.usage, "peak_gib")] for part in known],
    )


def phases(run: Run) -> Iterator[Figure]:
    """Where the time of an iteration goes, of every stage that logs its phases."""
    for part in run.parts:
        seconds: dict[str, list[float]] = defaultdict(list)
        for row in part.timings:
            for key in _phases_of(row):
                seconds[key].append(value(row, key))
        if len(seconds) < 2:
            continue
        colors = colors_of(seconds)
        means = {name: math.fsum(found) / len(part.timings) for name, found in seconds.items()}
        whole = math.fsum(means.values())
        rows = [
            Bar(name=name, parts=[(mean, colors[name], "")], note=f"{mean:.2f} s · {mean / whole:.0%}" if whole else "")
            for name, mean in means.items()
        ]
        yield Figure(
            key=f"{part.name}-phases",
            title=f"Phases of an iteration: {part.name}",
            caption=f"Mean seconds over {len(part.timings)} iterations.",
            drawing=bars(rows, "Seconds by phase: " + ", ".join(f"{r.name} {r.note}" for r in rows), "seconds"),
            columns=("step", *seconds),
            rows=[[int(value(row, "step")), *(value(row, key) for key in seconds)] for row in part.timings],
        )


def rates(run: Run) -> Figure | None:
    """Tokens a second of every stage that logs them."""
    known = [part for part in run.parts if math.isfinite(tokens_per_second(part)) and part.stage != "reward"]
    if not known:
        return None
    colors = stage_colors()
    rows = [
        Bar(
            name=p.name,
            parts=[(tokens_per_second(p), colors.get(p.stage, 7), p.stage)],
            note=_rate(tokens_per_second(p)),
        )
        for p in known
    ]
    return Figure(
        key="rates",
        title="Tokens a second",
        caption="Those that the loss counts; of PPO those sampled. Median over the updates.",
        drawing=bars(rows, "Tokens a second: " + ", ".join(f"{r.name} {r.note}" for r in rows), "tokens/s"),
        columns=("artifact", "stage", "tokens/s"),
        rows=[[part.name, part.stage, tokens_per_second(part)] for part in known],
    )


NO_PHASE = {"step", "seconds"}


def _phases_of(row: Mapping[str, object]) -> Sequence[str]:
    """Seconds by phase are logged under bare names; what has a unit or a group in its name is something else."""
    return [key for key in row if key not in NO_PHASE and "/" not in key and "_" not in key and value(row, key) >= 0]


def duration(seconds: float) -> str:
    """Seconds for people."""
    if math.isnan(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _gib(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f} GiB"


def _rate(rate: float) -> str:
    return "–" if math.isnan(rate) else f"{rate:,.0f}"
