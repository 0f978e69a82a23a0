"""Rows of XSTest -> prompts: safe requests that look unsafe, and beside them unsafe ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align.data.formats import Example, UnfitError
from align.records import Message

CONTRAST = "contrast_"  # what the type of an unsafe request begins with


def xstest(row: Mapping[str, Any]) -> Iterator[Example]:
    """XSTest's prompts (Röttger et al., NAACL 2024): columns id, prompt, type, label, focus and note.

    A safe request is of kind ``helpful``, an unsafe one of kind ``safety``; the type is added to the source. All but
    the prompt goes to ``meta``, the type as ``category``. Where there is no label (earlier versions) the type tells,
    as its authors say.
    """
    said = {key: row.get(key) for key in ("prompt", "type")}
    for key, value in said.items():
        if not isinstance(value, str) or not value.strip():
            raise UnfitError("wrong type", f"{key}: found {value!r}, expected text")
    category = str(said["type"]).strip()
    by_type = "unsafe" if category.startswith(CONTRAST) else "safe"
    label = row.get("label", by_type)
    if label not in ("safe", "unsafe"):
        raise UnfitError("unknown label", f"label: found {label!r}, expected safe or unsafe")
    if label != by_type:
        raise UnfitError("labels differ", f"label: found {label!r} of type {category!r}, expected {by_type!r}")
    told = {key: row[key] for key in ("id", "focus", "note") if row.get(key)}
    yield Example(
        prompt=(Message("user", str(said["prompt"]).strip()),),
        kind="safety" if label == "unsafe" else "helpful",
        source=category,
        meta={"label": label, "category": category, **told},
    )
