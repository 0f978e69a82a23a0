"""`align show`: an artifact's manifest and what it descends from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.artifacts import MANIFEST, Manifest, ancestors, read_manifest, resolve, sha256_file


def describe(folder: Path, verify: bool) -> Iterator[str]:
    """Lines that tell what an artifact is.

    Args:
        folder: the artifact.
        verify: read every file and compare its digest.

    Raises:
        ArtifactError: not an artifact, incomplete or altered.
    """
    manifest = read_manifest(folder, verify=verify)
    commit = f", commit {manifest.git_commit[:12]}" if manifest.git_commit else ""
    yield f"{manifest.name}: made by the stage {manifest.stage}, {manifest.created[:19]} UTC"
    yield f"  folder   {folder}"
    yield f"  library  {manifest.library}{commit}"
    yield f"  seed     {manifest.seed}"
    size = sum((folder / name).stat().st_size for name in manifest.files)
    checked = ", every digest verified" if verify else ""
    yield f"  files    {len(manifest.files)}, {size / 2**20:.1f} MiB{checked}"
    yield "lineage"
    yield from _lineage(folder)
    if manifest.inputs:
        yield "inputs"
        for entry in manifest.inputs:
            digest = f"sha256 {entry['sha256'][:12]}…" if entry["sha256"] else "no digest"
            yield f"  {entry['path']}  {digest}"
    yield "recipe"
    yield from _yaml(manifest.recipe)
    yield "metrics"
    yield from _yaml(manifest.metrics)


def _lineage(folder: Path) -> Iterator[str]:
    family = ancestors(folder)
    known = {path.resolve(): manifest for _, path, manifest in family}
    for depth, path, manifest in family:
        what = manifest.stage if manifest else "not an artifact of this library, or no longer there"
        yield f"  {'  ' * depth}{path.name}  {what}{_changed(path, manifest, known)}"


def _changed(path: Path, manifest: Manifest | None, known: dict[Path, Manifest | None]) -> str:
    """Which parents are not what they were when this artifact was made."""
    changed = []
    for entry in manifest.parents if manifest else ():
        place = resolve(path, entry["path"])
        if known.get(place.resolve()) and sha256_file(place / MANIFEST) != entry["sha256"]:
            changed.append(entry["name"])
    return f"  (made anew since: {', '.join(changed)})" if changed else ""


def _yaml(values: Any) -> Iterator[str]:
    import yaml  # type: ignore[import-untyped]

    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    for line in text.splitlines():
        yield f"  {line}"
