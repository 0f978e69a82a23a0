"""``align report``: one HTML file that shows what a run did, with nothing to fetch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.artifacts import MANIFEST, write_text
from align.errors import ArtifactError
from align.provenance import hide_secrets
from align.report import cost, curves, judges, verdicts, win_rates
from align.report.cost import Power
from align.report.figure import Figure, figure
from align.report.gather import Part, Run, read_rows, read_run, value
from align.report.given import given
from align.report.header import header
from align.report.lineage import nodes_of, picture
from align.report.markup import EMPTY, Markup, element, join, text
from align.report.samples import prompts_of, samples
from align.report.sources import ANSWERS
from align.report.summary import ceilings, tables_of
from align.report.tables import Table, numeric
from align.report.tables import text as cell_text

PROMPTS = 200  # shown with their answers, unless asked otherwise
FILE = "report.html"
# nothing is fetched, and what got in as text could not run even if it were a tag
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    watts: float | None = None,
    carbon: float | None = None,
    prompts: int = PROMPTS,
) -> Path:
    """Write the page of a run folder or an artifact.

    Args:
        folder: of a pipeline's run, finished or not, or of one artifact.
        out: the file; ``report.html`` in a run's folder, or beside an artifact's, whose own files stay as they are.
        watts: of the whole machine, for the energy where none was counted; the pipeline's ``watts`` where not given.
        carbon: kg CO2 equivalent a kWh; the paper's where not given.
        prompts: at most so many are shown with their answers.

    Returns:
        The file's path.

    Raises:
        ArtifactError: no such run, a file of it that cannot be read, or a place that cannot be written.
    """
    run = read_run(folder)
    if out is None:
        single = (folder / MANIFEST).is_file()
        out = folder.resolve().with_name(f"{run.title}.{FILE}") if single else folder / FILE
    if out.is_dir():
        raise ArtifactError(f"{out}: is a folder, expected a file to write")
    stated = value(run.recipe, "watts") if watts is None else watts
    power = Power(watts=None if math.isnan(stated) else stated)
    if carbon is not None:
        power = replace(power, kg_per_kwh=carbon)
    written = page(run, power, prompts)
    try:
        write_text(out, written)
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be written ({error.strerror}); --out names another file") from error
    return out


def page(run: Run, power: Power, prompts: int = PROMPTS) -> str:
    """The whole page."""
    sections = [(key, title, body) for key, title, body in _sections(run, power, prompts) if body]
    here = Path(__file__)
    style, script = (here.with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    contents = [element("li", element("a", text(title), href=f"#{key}")) for key, title, _ in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", text(f"{run.title} – align report")),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        element("a", text("Skip to the results"), href="#main", class_="skip"),
        header(run, power),
        element("nav", element("ul", *contents), aria_label="Contents"),
        element(
            "main",
            *(element("section", element("h2", text(title)), part, id=key) for key, title, part in sections),
            id="main",
        ),
        element("footer", element("p", text(_made(run)))),
        element("script", Markup(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _sections(run: Run, power: Power, prompts: int) -> Iterator[tuple[str, str, Markup]]:
    """(key, title, content) of each section; an empty one is left out."""
    tables = tables_of(run.finished)
    evaluations = list(run.of("evaluate"))
    first = [table for table in tables if table.title.startswith("Policies")]
    by_source = [table for table in tables if table.title.startswith("Helpfulness by source")]
    won = [table for table in tables if table.title.startswith(win_rates.TITLE)]
    kept = [table for table in tables if table.title.startswith("Instruction")]
    rated = [table for table in tables if table.title.startswith("Reward")]
    varied = [table for table in tables if table.title.startswith("Self-BLEU")]
    rest = [table for table in tables if table not in (*first, *won, *by_source, *kept, *rated, *varied)]
    gained = [f for part, m in evaluations if (f := verdicts.gains(part, m))]
    by_version = [f for part, m in evaluations for f in verdicts.versions(part, m)]
    yield "policies", "Policies", join([*map(_table, first), _grid([*gained, *by_version]), *map(_table, by_source)])
    beaten = [f for part, _ in evaluations for f in win_rates.drawn(part.folder, part.name)]
    yield "wins", "Win rates", join([_grid(beaten), *map(_fold, won)])
    yield "lineage", "How it was made", _lineage(run)
    obeyed = [f for part, m in evaluations for f in verdicts.kept(part, m)]
    yield "instructions", "Instructions kept over turns", join([_grid(obeyed), *map(_fold, kept)])
    answers = {part.name: read_rows(part.folder / ANSWERS) for part, _ in evaluations}
    moved = [f for part, _ in evaluations for f in verdicts.shift(part, answers[part.name])]
    yield "distributions", "Rewards by version", _grid([*moved, *verdicts.rollout_scores(run)])
    rounds = [_group(name, found) for name, found in judges.rejection(run)]
    yield "rejection", "Rejection sampling", join(rounds)
    brought = list(given(run))
    sampled = {part.name for part, _ in run.of("temperature")}
    alike = [f for name, found in brought if name in sampled for f in found]
    brought = [(name, found) for name, found in brought if name not in sampled]
    yield "diversity", "Diversity by temperature", join([_grid(alike), *map(_table, varied)])
    best = ceilings(run.finished)
    models = {part.name for part, _ in run.of("reward")}
    judged = [_group(name, found) for name, found in brought if name.partition(" on ")[0] in models]
    brought = [(name, found) for name, found in brought if name.partition(" on ")[0] not in models]
    yield "rewards", "Reward models", join([_grid(judges.accuracy(run, best)), *map(_fold, rated), *judged])
    yield "curves", "Training", join(_group(title, found) for title, found in curves.curves(run))
    yield "more", "More", join([*map(_table, rest), *(_group(name, found) for name, found in brought)])
    cards = [
        samples(answers[part.name], prompts_of(part.folder, manifest), prompts)
        for part, manifest in evaluations
        if answers[part.name]
    ]
    yield "samples", "Samples", join(cards)
    yield "cost", "Time, memory, energy", _cost(run, power)
    yield "recipes", "Recipes", join([*([_recipe_of(run)] if run.recipe else []), *map(_recipe, run.parts)])


def _grid(figures: Iterable[Figure]) -> Markup:
    found = [figure(f) for f in figures]
    return element("div", *found, class_="figures") if found else EMPTY


def _group(title: str, figures: Sequence[Figure]) -> Markup:
    return join([element("h3", text(title)), _grid(figures)])


def _table(table: Table) -> Markup:
    return join([element("h3", text(table.title)), _rows(table)])


def _fold(table: Table) -> Markup:
    """A table behind its title, for what a figure says already."""
    return element("details", element("summary", text(table.title)), _rows(table))


def _rows(table: Table) -> Markup:
    right = ["number" if flushed else None for flushed in numeric(table)]
    head = [element("th", text(c), scope="col", class_=r) for c, r in zip(table.columns, right, strict=True)]
    body = []
    for row in table.rows:
        cells = [element("td", text(cell_text(c)), class_=r) for c, r in zip(row, right, strict=True)]
        cells[0] = element("th", text(cell_text(row[0])), scope="row")
        body.append(element("tr", *cells))
    inner = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", inner, class_="table", tabindex="0", role="region", aria_label=table.title)


def _lineage(run: Run) -> Markup:
    nodes = nodes_of(run.family)
    if not nodes:
        return EMPTY
    links = {str(part.folder.resolve()): f"#{_anchor(part)}" for part in run.parts}
    data = [[node.name, node.stage, run_name, kind] for node in nodes.values()
            for key, kind in node.above.items() for run_name in [nodes[key].name]]  # fmt: skip
    drawn = Figure(
        key="lineage",
        title="Lineage",
        caption="Each artifact below what it was made from: weights (solid) and data (dashed). "
        "A line that a longer way implies is left out. A box leads to its recipe.",
        drawing=picture(nodes, links),
        columns=("artifact", "stage", "made from", "by"),
        rows=data,
        wide=True,
    )
    return element("div", figure(drawn), class_="figures lineage")


def _cost(run: Run, power: Power) -> Markup:
    table = cost.costs(run, power)
    if table is None:
        return EMPTY
    drawn = [f for f in (cost.times(run), cost.memory(run), cost.rates(run)) if f]
    return join([_grid([*drawn, *cost.phases(run)]), _table(table), element("p", text(cost.explain(run, power)))])


def _anchor(part: Part) -> str:
    return f"recipe-{part.name}"


def _recipe_of(run: Run) -> Markup:
    return element(
        "details", element("summary", text("The pipeline")), element("pre", element("code", text(_yaml(run.recipe))))
    )


def _recipe(part: Part) -> Markup:
    manifest = part.manifest
    if manifest is None:
        line = f"{part.name}: {part.stage}, {part.state}"
        return element("details", element("summary", text(line)), element("p", text("Not finished.")), id=_anchor(part))
    facts = [
        ("made", f"{manifest.created[:19].replace('T', ' ')} UTC"),
        ("library", manifest.library + (f", commit {manifest.git_commit}" if manifest.git_commit else "")),
        ("recipe", f"sha256 {manifest.recipe_sha256}"),
        *(("from", f"{p['name']}, manifest sha256 {p['sha256']}") for p in manifest.parents),
        *(("data", f"{i['path']}" + (f", sha256 {i['sha256']}" if i["sha256"] else "")) for i in manifest.inputs),
    ]
    listed = [join([element("dt", text(name)), element("dd", text(told))]) for name, told in facts]
    return element(
        "details",
        element("summary", element("b", text(part.name)), text(f" {manifest.stage}, seed {manifest.seed}")),
        element("dl", *listed),
        element("h4", text("Recipe, resolved")),
        element("pre", element("code", text(_yaml(hide_secrets(manifest.recipe)))), tabindex="0"),
        element("h4", text("Metrics")),
        element("pre", element("code", text(_yaml(hide_secrets(manifest.metrics)))), tabindex="0"),
        id=_anchor(part),
    )


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml  # type: ignore[import-untyped]

    found: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return found


def _made(run: Run) -> str:
    return f"Written by `align report {run.title}`. This file needs nothing else: no network, no other file."
