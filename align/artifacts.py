"""Files and folders written whole or not at all, and the manifest that says where a folder came from.

An artifact is a folder with a ``manifest.json``. It is built beside its place, in ``<out>.partial``, and
takes its place by a rename, so a crash at any moment leaves the old folder or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import ArtifactError, nearest
from align.files import jsonable, sha256_file, sync, write_json, write_jsonl, write_text
from align.provenance import git_commit, hide_secrets, recipe_digest, version

__all__ = [
    "MANIFEST",
    "Manifest",
    "ancestors",
    "building",
    "is_finished",
    "lineage",
    "publish",
    "read_manifest",
    "recipe_digest",
    "sha256_file",
    "work_dir",
    "write_json",
    "write_jsonl",
    "write_text",
]

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an artifact is and what it was made from. Paths of its own run are relative to the artifact."""

    format: int
    stage: str
    name: str
    recipe: dict[str, Any]  # resolved, secrets hidden
    recipe_sha256: str
    git_commit: str | None  # of the library's checkout; None where it is installed without one
    seed: int
    created: str  # UTC, ISO 8601, to the microsecond: two manifests are never alike
    library: str  # version
    parents: tuple[dict[str, Any], ...]  # {name, path, sha256 of its manifest}
    inputs: tuple[dict[str, Any], ...]  # {path, sha256}; sha256 is None for a name on the hub
    files: dict[str, str]  # name within the folder -> sha256
    metrics: dict[str, Any]


def work_dir(out: Path) -> Path:
    """Where the stage that makes ``out`` keeps checkpoints, metrics and resumable rollouts."""
    return out.parent / "work" / out.name


@contextlib.contextmanager
def building(out: Path) -> Iterator[Path]:
    """An empty folder ``<out>.partial`` to write an artifact into; :func:`publish` then puts it in place."""
    settle(out)
    folder = _partial(out)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def publish(
    folder: Path,
    out: Path,
    *,
    stage: str,
    name: str,
    recipe: Mapping[str, Any],
    seed: int,
    parents: Sequence[Path] = (),
    inputs: Sequence[Path] = (),
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the manifest of a finished folder and put the folder in place of ``out``, as a whole.

    Args:
        folder: what :func:`building` gave, filled.
        out: the artifact's place.
        stage: the stage's name in the registry.
        name: the artifact's own name.
        recipe: the resolved recipe as plain values; secrets are hidden here.
        seed: the seed of the stage.
        parents: artifact folders (or model folders from elsewhere) that it was made from.
        inputs: data files or folders that it was made from; ``hf:owner/name`` is recorded without a digest.
        metrics: numbers to keep with it.
    """
    assert folder == _partial(out), f"{folder} was not made by building({out})"
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        relative = path.relative_to(folder).as_posix()
        if relative != MANIFEST:
            sync(path)
            files[relative] = sha256_file(path)
    manifest = Manifest(
        format=FORMAT,
        stage=stage,
        name=name,
        recipe=jsonable(hide_secrets(recipe)),
        recipe_sha256=recipe_digest(recipe),
        git_commit=git_commit(),
        seed=seed,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        library=version(),
        parents=tuple(
            {"name": p.name, "path": _recorded(p, out), "sha256": folder_digest(p)} for p in map(Path, parents)
        ),
        inputs=tuple({"path": _recorded(p, out), "sha256": input_digest(p)} for p in map(Path, inputs)),
        files=files,
        metrics=jsonable(dict(metrics or {})),
    )
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))
    settle(out)
    return manifest


def settle(out: Path) -> None:
    """Put a completely built ``<out>.partial`` in its place; finish a replacement that a crash cut short."""
    if not out.name:  # "." or "/" has no neighbours of its own
        return
    old, new = out.with_name(out.name + ".old"), _partial(out)
    if (new / MANIFEST).is_file():
        # another process may be settling the same folder: whoever comes second finds the work done
        with contextlib.suppress(FileNotFoundError):
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)
                out.rename(old)
            new.rename(out)
            sync(out.parent)
    if old.exists() and out.exists():
        shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: Path, verify: bool = False) -> Manifest:
    """The manifest of an artifact.

    Args:
        folder: the artifact.
        verify: also compare every file's digest, which reads every byte.

    Raises:
        ArtifactError: no such folder, no or broken manifest, a file missing or (``verify``) altered.
    """
    settle(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.glob("*") if p.is_dir()] if folder.parent.is_dir() else []
        raise ArtifactError(f"{folder}: no such artifact folder{nearest(folder.name, beside)}")
    if not path.is_file():
        raise ArtifactError(f"{folder}: not an artifact: it has no {MANIFEST}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    wanted = {field.name for field in dataclasses.fields(Manifest)}
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ArtifactError(f"{path}: format: found {found!r}, expected {FORMAT}")
    if values.keys() != wanted:
        raise ArtifactError(f"{path}: keys differ from the expected ones: {', '.join(sorted(values.keys() ^ wanted))}")
    manifest = Manifest(**(values | {"parents": tuple(values["parents"]), "inputs": tuple(values["inputs"])}))
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder}: incomplete: {name} of its {MANIFEST} is missing")
        if verify and (actual := sha256_file(folder / name)) != digest:
            raise ArtifactError(f"{folder / name}: altered: sha256 {actual[:12]}…, expected {digest[:12]}…")
    return manifest


def ancestors(folder: Path) -> list[tuple[int, Path, Manifest | None]]:
    """The artifact and all it descends from, each once, itself first, as (depth, folder, manifest).

    The manifest is None for a model folder from elsewhere or one that is no longer there.
    """
    found: list[tuple[int, Path, Manifest | None]] = [(0, folder, read_manifest(folder))]
    seen = {folder.resolve()}
    for depth, place, manifest in found:  # grows while it is walked
        for parent in manifest.parents if manifest else ():
            path = resolve(place, parent["path"])
            if path.resolve() not in seen:
                seen.add(path.resolve())
                found.append((depth + 1, path, read_manifest(path) if (path / MANIFEST).is_file() else None))
    return found


def lineage(folder: Path) -> list[Manifest]:
    """The manifests of the artifact and of all it descends from, each once, the artifact's own first."""
    return [manifest for _, _, manifest in ancestors(folder) if manifest is not None]


def is_finished(
    out: Path,
    stage: str,
    recipe: Mapping[str, Any],
    parents: Sequence[Path] | None = None,
    inputs: Sequence[Path] | None = None,
) -> bool:
    """Whether ``out`` is what this recipe would make from its parents and inputs as they are now.

    ``None`` for parents or inputs means those that the manifest names.
    """
    settle(out)
    if not (out / MANIFEST).is_file():
        return False
    try:
        manifest = read_manifest(out)
    except ArtifactError:
        return False
    if manifest.stage != stage or manifest.recipe_sha256 != recipe_digest(recipe):
        return False
    if parents is None:
        parents = [resolve(out, entry["path"]) for entry in manifest.parents]
    if inputs is None:
        inputs = [resolve(out, entry["path"]) for entry in manifest.inputs]
    try:
        now = [folder_digest(Path(p)) for p in parents], [input_digest(Path(p)) for p in inputs]
    except ArtifactError:  # a parent or an input is gone
        return False
    then = [p["sha256"] for p in manifest.parents], [p["sha256"] for p in manifest.inputs]
    return now == then


def folder_digest(folder: Path) -> str:
    """SHA-256 of an artifact's manifest; of names and contents for a model folder that has none."""
    if (folder / MANIFEST).is_file():
        return sha256_file(folder / MANIFEST)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder")
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return whole.hexdigest()


def input_digest(path: Path) -> str | None:
    """SHA-256 of a data file or folder; None for a data set on the hub (``hf:owner/name``)."""
    if str(path).startswith("hf:"):
        return None
    if path.is_dir():
        return folder_digest(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    return sha256_file(path)


def resolve(folder: Path, recorded: str) -> Path:
    """The place of a parent or input as recorded in the manifest of ``folder``."""
    if recorded.startswith("hf:") or Path(recorded).is_absolute():
        return Path(recorded)
    return Path(os.path.normpath(folder / recorded))


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _recorded(path: Path, out: Path) -> str:
    """Relative to the artifact within one run folder, so that the run can be moved; absolute elsewhere."""
    if str(path).startswith("hf:"):
        return str(path)
    absolute = path.resolve()
    if absolute.is_relative_to(out.parent.resolve()):
        return Path(os.path.relpath(absolute, out.resolve())).as_posix()
    return str(absolute)
