"""A finished run as tables: the policies side by side, and the reward models beside what could be reached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from align.artifacts import Manifest, read_manifest
from align.records import RATINGS
from align.report.epochs import over_epochs
from align.report.sources import helpful_by_source
from align.report.tables import Table, markdown


def summary(run: Path) -> str:
    """The tables of a pipeline's run folder, as text that is Markdown too.

    Raises:
        ArtifactError: an artifact of the run cannot be read.
    """
    manifests = {
        folder.name: read_manifest(folder) for folder in sorted(run.iterdir()) if (folder / "manifest.json").is_file()
    }
    return "\n\n".join(markdown(table) for table in tables_of({run / name: m for name, m in manifests.items()}))


def tables_of(manifests: Mapping[Path, Manifest]) -> list[Table]:
    """The tables that these artifacts fill.

    Args:
        manifests: by folder.
    """
    # these take their cells from here
    from align.report.against_kl import against_kl
    from align.report.along import along, safety
    from align.report.diversity import self_bleu
    from align.report.exams import exam_tables
    from align.report.grouped import grouped
    from align.report.judged import judged
    from align.report.refusals import distilled, refusals
    from align.report.win_rates import win_rates

    evaluations = {f: m for f, m in manifests.items() if m.stage == "evaluate" and m.metrics.get("policies")}
    found: list[Table | None] = [policies(manifest) for manifest in evaluations.values()]
    found += [win_rates(folder) for folder in evaluations]
    found += [helpful_by_source(folder) for folder in evaluations]
    found += [refusals(folder) for folder in evaluations]
    found += [safety(folder) for folder, m in evaluations.items() if not m.recipe.get("along")]
    found += [table for folder, manifest in evaluations.items() for table in along(folder, manifest)[0]]
    found += [table for manifest in evaluations.values() for table in against_kl(manifest)[0]]
    found += [distilled(folder.name, m.metrics) for folder, m in manifests.items() if m.stage == "distill"]
    found += [obedience(manifest) for manifest in evaluations.values() if manifest.recipe.get("dialogues")]
    found += [table for m in manifests.values() if m.stage == "exam" for table in exam_tables(m)]
    found += [table for manifest in evaluations.values() for table in grouped(manifest)]
    found += [self_bleu(manifest) for manifest in manifests.values() if manifest.stage == "temperature"]
    rewards = {folder.name: manifest for folder, manifest in manifests.items() if manifest.stage == "reward"}
    if rewards:
        folders = [folder for folder, manifest in manifests.items() if manifest.stage == "reward"]
        found += [reward_models(rewards, ceilings(manifests)), judged(folders), over_epochs(rewards)]
    return [table for table in found if table]


def policies(manifest: Manifest) -> Table:
    """One row a policy: what the judge, the reward models and the reference say of it."""
    measured: Mapping[str, Any] = manifest.metrics["policies"]
    first = next(iter(measured.values()))
    turns = list(first.get("kept", {}))
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {}
    if "helpful" in first:
        columns |= {
            "helpful": lambda m: plus_minus(m["helpful"], 3),
            "unsafe": lambda m: percent(m["unsafe"]["share"]),
            "false refusals": lambda m: percent(m["false_refusals"]["share"]),
        }
    if "reward" in first:
        columns["reward, logits"] = lambda m: plus_minus(m["reward"], 2)
    if "safety" in first:
        columns["safety score, logits"] = lambda m: plus_minus(m["safety"], 2)
    for judge in first.get("judges", {}):
        columns[judge] = lambda m, judge=judge: known(m["judges"][judge])  # type: ignore[misc]
    columns["tokens"] = lambda m: f"{m['tokens']['mean']:.1f}"
    columns["KL, nats an answer"] = lambda m: plus_minus(m["kl"], 2)
    for turn in turns:
        columns[f"kept at turn {turn}"] = lambda m, turn=turn: percent(m["kept"][turn]["share"])  # type: ignore[misc]
    rows = [[name, *(cell(m) for cell in columns.values())] for name, m in measured.items()]
    title = f"Policies ({first['kl']['n']} held-out prompts; ± standard error)"
    return Table(title, ["policy", *columns], rows)


def obedience(manifest: Manifest) -> Table:
    """One row a policy and sort of instruction: in how many dialogues the answer at each turn kept it."""
    rows, turns = [], []
    for name, measured in manifest.metrics["policies"].items():
        for source, by_turn in measured.get("kept_by_source", {}).items():
            turns = list(by_turn)
            count = by_turn[turns[0]]["n"]
            cells = [
                percent(cell["share"]) + (f" of {cell['n']}" if cell["n"] not in (0, count) else "")
                for cell in by_turn.values()
            ]
            rows.append([name, source, str(count), *cells])
    columns = ["policy", "instruction", "dialogues", *(f"turn {turn}" for turn in turns)]
    return Table("Instruction of the first turn kept", columns, rows)


def reward_models(rewards: Mapping[str, Manifest], best: Mapping[str, Any] | None) -> Table:
    """Held-out accuracy by rating with 95 % intervals, beside the best that anyone could reach where it is known."""
    rows = []
    for name, manifest in rewards.items():
        sets = {key.removeprefix("held_out/"): v for key, v in manifest.metrics.items() if key.startswith("held_out/")}
        for held, by_rating in sets.items():
            cells = [interval(by_rating[rating]) for rating in (*RATINGS, "all")]
            rows.append([name, held, *cells])
    for held, by_rating in (best or {}).items():
        keys = (*RATINGS, "overall")
        rows.append(["ceiling", held, *(percent(by_rating[key]["accuracy"]) for key in keys)])
    columns = ["reward model", "held-out set", *RATINGS, "all"]
    return Table("Reward-model accuracy by rating (95 % interval)", columns, rows)


def ceilings(folders: Iterable[Path]) -> Mapping[str, Any] | None:
    """The best reachable accuracies, where data came with them."""
    for folder in folders:
        path = folder / "ceilings.json"
        if path.is_file():
            found = json.loads(path.read_text())
            return {held: by_rating for held, by_rating in found.items() if isinstance(by_rating, dict)}
    return None


def plus_minus(cell: Mapping[str, float | None], digits: int) -> str:
    """A mean with its standard error, which a single value has not."""
    error = "–" if cell["se"] is None else f"{cell['se']:.{digits}f}"
    return f"{cell['mean']:z.{digits}f} ± {error}"


def known(cell: Mapping[str, float | None]) -> str:
    """As :func:`plus_minus` to three digits, or a dash where no answer had a score."""
    return plus_minus(cell, 3) if cell["n"] else "–"


def percent(share: float | None) -> str:
    """A share in per cent, or a dash where there was nothing to count."""
    return "–" if share is None else f"{100 * share:.1f} %"


def interval(cell: Mapping[str, Any]) -> str:
    """An accuracy with its interval."""
    if cell["accuracy"] is None:
        return "–"
    return f"{100 * cell['accuracy']:.1f} ({100 * cell['low']:.1f}–{100 * cell['high']:.1f})"
