"""Curves of training: each number that a stage logs, against its updates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from align.report.charts import Series, lines
from align.report.figure import Figure, colors_of, legend_of
from align.report.gather import Part, Row, Run, value
from align.report.markup import Markup

DRAWN = 400  # points of a line; a phone shows no more
CROWD = 4  # of more lines only the means are drawn
KEPT = 5000  # of a series in the data to be downloaded; metrics.jsonl has all


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics that are drawn in one figure."""

    title: str
    unit: str
    keys: tuple[str, ...]
    shares: bool = False


# what the stages log; whatever else they log gets a figure of its own
FAMILIES = (
    Family("Reward", "logits", ("reward/combined", "reward/helpful", "reward/safety")),
    Family("KL to the start", "nats an answer", ("kl/answer",)),
    Family("KL, two estimates", "nats a token", ("kl/k1", "kl/k3")),
    Family("Answer length", "tokens", ("answer/tokens",)),
    Family("Answers without an end", "share", ("answer/no_eos",), shares=True),
    Family("Loss", "loss", ("loss",)),
    Family("Safety loss", "loss", ("safety",)),
    Family("Accuracy", "share", ("accuracy",), shares=True),
    Family("Policy loss", "loss", ("update/policy_loss",)),
    Family("Value loss", "loss", ("update/value_loss",)),
    Family("Value: variance explained", "share", ("value/explained",)),
    Family("Entropy", "nats a token", ("update/entropy",)),
    Family("Ratios clipped", "share", ("update/clipped",), shares=True),
    Family("Gradient norm", "norm", ("grad_norm", "update/grad_norm", "update/value_grad_norm")),
    Family("Learning rate", "rate", ("lr",)),
)
TITLES = {"pretrain": "Pre-training", "sft": "Fine-tuning", "reward": "Reward models", "ppo": "PPO"}
ORDER = ("ppo", "sft", "reward", "pretrain")  # what a reader asks for first
HELD = ("evaluate", "exam", "temperature")  # log one row a policy: not a curve


def curves(run: Run) -> Iterator[tuple[str, list[Figure]]]:
    """(heading, figures) of each kind of stage that logs something."""
    kinds = dict.fromkeys([*ORDER, *(part.stage for part in run.parts)])
    for kind in kinds:
        parts = [part for part in run.parts if part.stage == kind and part.metrics and kind not in HELD]
        if parts:
            yield TITLES.get(kind, kind.capitalize()), list(_figures(kind, parts))


def _figures(kind: str, parts: Sequence[Part]) -> Iterator[Figure]:
    logged = dict.fromkeys(key for part in parts for row in part.metrics for key in row if key != "step")
    numbers = [key for key in logged if any(math.isfinite(value(row, key)) for part in parts for row in part.metrics)]
    known = {key for family in FAMILIES for key in family.keys}
    rest = [Family(key.replace("/", ": ").replace("_", " "), key, (key,)) for key in numbers if key not in known]
    for family in (*FAMILIES, *rest):
        keys = [key for key in family.keys if key in numbers]
        if keys:
            yield _figure(kind, parts, family, keys)


def _figure(kind: str, parts: Sequence[Part], family: Family, keys: Sequence[str]) -> Figure:
    drawn: list[Series] = []
    data: dict[float, dict[str, float]] = defaultdict(dict)
    smoothed = 0
    names = [(part, key, _name(part, key, parts, keys)) for part in parts for key in keys]
    colors = colors_of(name for _, _, name in names)
    for part, key, name in names:
        x, y = points(part.metrics, key)
        if not x:
            continue
        for step, found in zip(*thin(x, y, KEPT), strict=True):
            data[step][name] = found
        shown_x, shown_y = thin(x, y, DRAWN)
        window = max(1, len(shown_x) // 25) | 1
        if window >= 5:
            shown = shown_y
            smoothed = max(smoothed, window * round(len(x) / len(shown_x)))
            shown_y = smooth(shown, window)
            if len(names) <= CROWD:
                drawn.append(Series(name=name, x=shown_x, y=shown, color=colors[name], kind="faint"))
        drawn.append(Series(name=name, x=shown_x, y=shown_y, color=colors[name]))
    drawn.sort(key=lambda s: s.kind != "faint")  # faint ones lie behind
    title = f"{family.title}, {TITLES[kind].lower() if kind != 'ppo' else 'PPO'}" if kind in TITLES else family.title
    caption = f"Against {'iterations' if kind == 'ppo' else 'updates'}"
    caption += f"; the line is a running mean over about {smoothed} of them." if smoothed else "."
    if any(part.state != "finished" for part in parts):
        caption += " Not finished."
    legend = legend_of(drawn)
    steps = sorted(data.items())
    return Figure(
        key=f"{kind}-{keys[0].replace('/', '-').replace('_', '-')}",
        title=title,
        caption=caption,
        drawing=_draw(drawn, title, family),
        legend=legend if len(legend) > 1 else [],
        columns=("step", *colors),
        rows=[[_short(step), *(_short(row.get(name, math.nan)) for name in colors)] for step, row in steps],
    )


def _draw(drawn: Sequence[Series], title: str, family: Family) -> Markup:
    ends = ", ".join(f"{s.name} ends at {s.y[-1]:.3g}" for s in drawn if s.kind != "faint")
    return lines(drawn, f"{title}: {ends}", "step", family.unit, shares=family.shares)


def _name(part: Part, key: str, parts: Sequence[Part], keys: Sequence[str]) -> str:
    short = key.rpartition("/")[2].replace("_", " ")
    if len(keys) == 1:
        return part.name
    return short if len(parts) == 1 else f"{part.name}, {short}"


def points(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have this metric; a value that is not finite is NaN."""
    found = [(value(row, "step"), value(row, key)) for row in rows if key in row]
    found = [(x, y if math.isfinite(y) else math.nan) for x, y in found if math.isfinite(x)]
    return [x for x, _ in found], [y for _, y in found]


def thin(x: Sequence[float], y: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """At most ``most`` points: means of equally many neighbours, of their finite values."""
    size = math.ceil(len(x) / most)
    if size <= 1:
        return list(x), list(y)
    places = range(0, len(x), size)
    return [_mean(x[i : i + size]) for i in places], [_mean(y[i : i + size]) for i in places]


def smooth(y: Sequence[float], window: int) -> list[float]:
    """Centred running mean over ``window`` (odd) points, narrower towards the ends; NaN where nothing is known."""
    half = window // 2
    found = []
    for index in range(len(y)):
        reach = min(half, index, len(y) - 1 - index)
        found.append(_mean(y[index - reach : index + reach + 1]))
    return found


def _short(number: float) -> float | int | None:
    """Six digits, as many as a figure shows; None for what is not known."""
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.6g}")


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return math.fsum(known) / len(known) if known else math.nan
