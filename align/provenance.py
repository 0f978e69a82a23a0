"""What a run was: the recipe's digest, its secrets hidden, the library's version and commit."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.files import jsonable

_SECRET = re.compile(r"(?:^|_)(?:token|secret|password|passwd|api_?key|access_?key|credentials?)$", re.IGNORECASE)
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "stop_token")


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved recipe, independent of the order of its keys and of its secrets."""
    text = json.dumps(jsonable(hide_secrets(recipe)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hide_secrets(value: Any) -> Any:
    """A copy in which text under a key such as ``hf_token``, ``password`` or ``api_key`` is ``***``."""
    if isinstance(value, Mapping):
        return {
            key: "***"
            if isinstance(item, str) and item and _SECRET.search(str(key)) and key not in _SPECIAL_TOKENS
            else hide_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [hide_secrets(item) for item in value]
    return value


def git_commit() -> str | None:
    """The commit of the checkout that this library runs from, read without git; None where there is none."""
    for folder in Path(__file__).resolve().parents:
        dot = folder / ".git"
        if dot.is_file():  # a worktree or submodule: "gitdir: <path>"
            dot = (folder / dot.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
        if (dot / "HEAD").is_file():
            return _head(dot)
    return None


def _head(dot: Path) -> str | None:
    head = (dot / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head or None
    ref = head.removeprefix("ref:").strip()
    common = dot / "commondir"
    roots = [dot] + ([(dot / common.read_text(encoding="utf-8").strip()).resolve()] if common.is_file() else [])
    for root in roots:
        if (root / ref).is_file():
            return (root / ref).read_text(encoding="utf-8").strip()
        packed = root / "packed-refs"
        for line in packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else ():
            if line.endswith(f" {ref}"):
                return line.split()[0]
    return None


def version() -> str:
    """The library's version."""
    try:
        return importlib.metadata.version("align")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
