"""Everything that a run folder holds, finished or not, read once for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.artifacts import MANIFEST, Manifest, ancestors, read_manifest, resolve, work_dir
from align.errors import ArtifactError, nearest
from align.provenance import hide_secrets

STATE = "pipeline.json"  # what align.pipeline writes beside the artifacts
USAGE = "usage.json"  # what align.runner writes into a stage's work folder
BUILDING = {".partial", ".old"}  # an artifact on its way to its place
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stage of the run: its artifact, or what there is of an unfinished one."""

    name: str
    stage: str
    folder: Path
    manifest: Manifest | None  # None while it is not finished
    state: str  # finished, running, interrupted, failed, waiting
    metrics: Sequence[Row]  # a row an update
    timings: Sequence[Row]
    usage: Mapping[str, Any]  # seconds, peak_gib, joules by counter; what is known of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder, or a single artifact with those that it descends from."""

    title: str
    folder: Path
    recipe: Mapping[str, Any]  # of the pipeline, secrets hidden; empty for a single artifact
    parts: Sequence[Part]
    family: Mapping[Path, Manifest | None] = field(default_factory=dict)  # resolved folder -> manifest, for the lineage

    @property
    def finished(self) -> Mapping[Path, Manifest]:
        """Manifests of what is finished, by folder, in order."""
        return {part.folder: part.manifest for part in self.parts if part.manifest}

    def of(self, stage: str) -> Iterator[tuple[Part, Manifest]]:
        """The finished parts of one stage."""
        for part in self.parts:
            if part.manifest and part.stage == stage:
                yield part, part.manifest


def read_run(folder: Path) -> Run:
    """A pipeline's run folder, or one artifact's.

    Raises:
        ArtifactError: neither, or a file of it cannot be read.
    """
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.glob("*") if p.is_dir()] if folder.parent.is_dir() else []
        raise ArtifactError(f"{folder}: no such folder{nearest(folder.name, beside)}")
    title = folder.resolve().name
    if (folder / MANIFEST).is_file():
        part = _part(folder, read_manifest(folder), _state(folder.parent).get(folder.name, {}))
        return Run(title=title, folder=folder, recipe={}, parts=[part], family=_family([folder]))
    state = _state(folder)
    folders = [p.parent for p in sorted(folder.glob(f"*/{MANIFEST}")) if p.parent.suffix not in BUILDING]
    manifests = {p.name: read_manifest(p) for p in folders}
    if not state and not manifests:
        raise ArtifactError(f"{folder}: neither a run folder nor an artifact: no {MANIFEST} in it or in its folders")
    # a recipe changed since leaves artifacts that the pipeline no longer names: they follow
    made = sorted(manifests, key=lambda name: manifests[name].created)
    names = dict.fromkeys([*state, *made])
    parts = [_part(folder / name, manifests.get(name), state.get(name, {})) for name in names]
    return Run(
        title=title,
        folder=folder,
        recipe=hide_secrets(_json(folder / STATE).get("recipe", {})),
        parts=parts,
        family=_family([folder / name for name in manifests]),
    )


def read_rows(path: Path, most: int | None = None) -> list[Row]:
    """Rows of a JSONL file, of which a run may just be writing the last line.

    Args:
        path: a file; no rows where it is not there.
        most: read no more rows than these.

    Raises:
        ArtifactError: a line that is no JSON object.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if len(rows) == most or not line.endswith("\n"):
                break
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ArtifactError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ArtifactError(f"{path}:{number}: found {type(row).__name__}, expected an object")
            rows.append(row)
    return rows


def value(row: Row, key: str) -> float:
    """A number of a row; NaN where it is missing, null or no number."""
    found = row.get(key)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else math.nan


def combined(row: Row) -> float:
    """The score that counts of a scored answer, logits; NaN where reward models have not seen it."""
    scores = row.get("scores")
    return value(scores, "combined") if isinstance(scores, dict) else math.nan


def _part(folder: Path, manifest: Manifest | None, state: Mapping[str, Any]) -> Part:
    work = work_dir(folder)
    inside = folder if manifest and "metrics.jsonl" in manifest.files else work
    usage = {key: state[key] for key in ("seconds", "peak_gib") if key in state} | _json(work / USAGE)
    return Part(
        name=folder.resolve().name,
        stage=manifest.stage if manifest else str(state.get("stage", "unknown")),
        folder=folder,
        manifest=manifest,
        state="finished" if manifest else str(state.get("state", "waiting")),
        metrics=read_rows(inside / "metrics.jsonl"),
        timings=read_rows(inside / "timings.jsonl"),
        usage=usage,
    )


def _state(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    found = _json(folder / STATE).get("stages", {})
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path}: found {type(found).__name__}, expected an object")
    return found


def _family(folders: Sequence[Path]) -> dict[Path, Manifest | None]:
    """The artifacts, those that they descend from, and those whose files they read."""
    found: dict[Path, Manifest | None] = {}
    queue = list(folders)
    for folder in queue:  # grows while it is walked
        for _, path, manifest in ancestors(folder) if folder.resolve() not in found else ():
            if path.resolve() in found:
                continue
            found[path.resolve()] = manifest
            for entry in manifest.inputs if manifest else ():
                holder = resolve(path, entry["path"])
                queue += [p for p in (holder, holder.parent) if (p / MANIFEST).is_file()]
    return found
