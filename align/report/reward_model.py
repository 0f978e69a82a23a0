"""The report of a reward model as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.records import RATINGS
from align.report.summary import interval, percent
from align.report.tables import Cell, table

Report = Mapping[str, Any]
SOURCES = 20  # rows of the table by source and kind; the file has all


def reward_tables(report: Report) -> str:
    """A reward model's report on one set, for a terminal and for Markdown.

    Args:
        report: what :func:`align.measures.reward.reward_report` gives.
    """
    parts = [by_rating(report), by_source(report), safety(report), scores(report), calibration(report), length(report)]
    return "\n\n".join(part for part in (*parts, annotators(report)) if part)


def by_rating(report: Report) -> str:
    """Accuracy over all sources and kinds, the length baseline beside it."""
    rows = [
        (cell["rating"], cell["n"], interval(cell), interval(cell["length_baseline"]))
        for cell in report["accuracy"]
        if cell["over_all"]
    ]
    return table("Accuracy by rating, % (95 % interval)", ("rating", "pairs", "accuracy", "longer answer"), rows)


def by_source(report: Report) -> str | None:
    """Accuracy by source × kind × rating; None where there is one source of one kind only."""
    cells: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for cell in report["accuracy"]:
        if not cell["over_all"]:
            cells.setdefault((cell["source"], cell["kind"]), {})[cell["rating"]] = cell
    # where all of a source are of one kind, its row over all kinds says the same twice; so for a kind's sources
    several = {key: found for key, found in cells.items() if not _twice(key, cells)}
    if len(several) < 2:
        return None
    largest = sorted(several, key=lambda key: -several[key]["all"]["n"])[:SOURCES]
    rows = [
        [source or "no source", kind, found["all"]["n"], *_ratings(found), interval(found["all"]["length_baseline"])]
        for (source, kind), found in several.items()
        if (source, kind) in largest
    ]
    title = "Accuracy by source, kind and rating, % (95 % interval)"
    if len(largest) < len(several):
        title += f"; the {len(largest)} largest of {len(several)}"
    return table(title, ("source", "kind", "pairs", *RATINGS, "all", "longer answer"), rows)


def safety(report: Report) -> str | None:
    """The safety bins, and what is found unsafe; None without labels."""
    found = report["safety"]["unsafe"]
    if not found["labelled"]:
        return None
    rows = [(b["bin"], b["n"], percent(b["share"]), interval(b)) for b in report["safety"]["bins"]]
    bins = table(
        "Accuracy by safety labels, % (95 % interval)", ("pair", "pairs", "share of labelled", "accuracy"), rows
    )
    told: list[list[Cell]] = [
        ["recall", found["recall"]["n"], interval(found["recall"])],
        ["precision", found["precision"]["n"], interval(found["precision"])],
    ]
    title = f"Unsafe answers found at probability {found['threshold']:g}, % (95 % interval)"
    return f"{bins}\n\n{table(title, ('', 'answers', 'share'), told)}"


def scores(report: Report) -> str:
    """Quantiles of the scores by group."""
    rows = [
        [name, group["n"], group["mean"], group["sd"], *group["quantiles"].values()]
        for name, group in report["scores"]["groups"].items()
        if group["n"]
    ]
    at = [f"{100 * float(q):g} %" for q in next(iter(report["scores"]["groups"].values()))["quantiles"]]
    return table("Scores, logits, and their quantiles", ("answers", "n", "mean", "sd", *at), rows)


def calibration(report: Report) -> str:
    """The reliability curve, and in its title how far off it is."""
    found = report["calibration"]
    rows = []
    for b in found["bins"]:
        told = interval({"accuracy": b["accuracy"], "low": b["accuracy_low"], "high": b["accuracy_high"]})
        rows.append((f"{100 * b['low']:.0f}–{100 * b['high']:.0f} %", b["n"], f"{100 * b['confidence']:.1f}", told))
    title = (
        f"Calibration: ECE {found['ece']:.3f} ({found['ece_if_calibrated']:.3f} by chance), confidence minus accuracy "
        f"{found['overconfidence']:+.3f}, loss {found['loss']:.3f} nats"
    )
    return table(title, ("confidence", "pairs", "mean confidence, %", "accuracy, %"), rows)


def length(report: Report) -> str:
    """Correlation with length, and the model beside the baseline that prefers the longer answer."""
    found = report["length"]
    correlations = [
        [what, *(_correlation(found[key][kind]) for kind in ("pearson", "spearman"))]
        for what, key in (("score and tokens, answers", "answers"), ("their differences, pairs", "pairs"))
    ]
    rows: list[list[Cell]] = [
        ["model", found["model"]["n"], interval(found["model"])],
        ["longer answer", found["baseline"]["n"], interval(found["baseline"])],
        *(
            [
                f"model where {name}",
                found["model_where"][key]["n"],
                interval(found["model_where"][key]),
            ]
            for name, key in (
                ("the longer is right", "right"),
                ("the longer is wrong", "wrong"),
                ("both are as long", "tied"),
            )
        ),
        *(
            [f"{who} the longer answer", found["prefers_longer"][key]["n"], interval(found["prefers_longer"][key])]
            for who, key in (("model prefers", "model"), ("people prefer", "people"))
        ),
    ]
    first = table("Correlation with length (95 % interval)", ("of", "Pearson", "Spearman"), correlations)
    return f"{first}\n\n{table('Length as a judge, % (95 % interval)', ('', 'pairs', 'share'), rows)}"


def annotators(report: Report) -> str | None:
    """Agreement between annotators and of the model with them; None where no two compared the same answers."""
    found = report["annotators"]
    if found is None:
        return None
    people, model = found["people"], found["model"]
    rows: list[list[Cell]] = [
        ["two annotators, ties included", people["agreement"]["n"], _share(people["agreement"])],
        ["two annotators, neither says tie", people["decided"]["n"], _share(people["decided"])],
        ["model and one annotator who does not say tie", model["decided"]["n"], _share(model["decided"])],
        *(
            [f"model and {name}", model[key]["n"], interval(model[key])]
            for name, key in (
                ("the majority", "majority"), ("all, where they agree", "unanimous"),
                ("the majority, where they do not all agree", "divided"),
            )
        ),
    ]  # fmt: skip
    for one in found["annotators"] or []:
        name = f"annotator {one['annotator']}"
        rows.append([f"model and {name}", one["model"]["n"], interval(one["model"])])
        rows.append([f"{name} and the others' majority", one["others"]["n"], interval(one["others"])])
    kappa = people["kappa"]
    told = "–" if kappa["value"] is None else f"{kappa['value']:.3f}"
    error = "" if kappa["se"] is None else f" ± {kappa['se']:.3f}"
    title = f"Annotators: Fleiss' kappa {told}{error}; agreement, % (95 % interval, or ± standard error)"
    return table(title, ("", "comparisons", "agreement"), rows)


def _twice(key: tuple[str, str], cells: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]) -> bool:
    """Whether a row over all kinds, or over all sources, has just one row below it."""
    source, kind = key
    if kind == "all":
        return sum(other == source and of != "all" for other, of in cells) == 1
    if source == "all":
        return sum(of == kind and other != "all" for other, of in cells) == 1
    return False


def _ratings(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [interval(found[rating]) if rating in found else "–" for rating in (*RATINGS, "all")]


def _correlation(found: Mapping[str, Any]) -> str:
    if found["r"] is None:
        return "–"
    told = "" if found["low"] is None else f" ({found['low']:+.3f} to {found['high']:+.3f})"
    return f"{found['r']:+.3f}{told}"


def _share(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "–"
    return f"{100 * found['value']:.1f}" + ("" if found["se"] is None else f" ± {100 * found['se']:.1f}")
