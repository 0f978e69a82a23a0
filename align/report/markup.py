"""HTML and SVG from Python: whatever is not already markup is escaped, so no text from data can become a tag."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any, NewType

from align.files import jsonable

Markup = NewType("Markup", str)  # made here only; a plain str where one is wanted is a type error

EMPTY = Markup("")
_VOID = {"meta", "input", "br", "path", "line", "rect", "circle", "polyline", "polygon"}


def text(value: object) -> Markup:
    """A value as text; what no file of UTF-8 can hold, a lone surrogate, becomes a question mark."""
    return Markup(html.escape(str(value).encode("utf-8", "replace").decode(), quote=True))


def element(tag: str, *children: Markup, **attributes: object) -> Markup:
    """A tag with attributes and children.

    Args:
        tag: its name.
        children: what lies in it.
        attributes: ``class_`` is class, ``stroke_width`` is stroke-width; None and False leave one out, True is one
            without a value; floats keep two decimals.
    """
    given = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID and not children:
        return Markup(f"<{tag}{given}/>")
    return Markup(f"<{tag}{given}>{''.join(children)}</{tag}>")


def join(parts: Iterable[Markup]) -> Markup:
    """Parts one after another."""
    return Markup("".join(parts))


def embedded_json(value: Any) -> Markup:
    """JSON for a ``<script>`` element, which neither ``</script>`` nor ``<!--`` within it can end."""
    plain = json.dumps(jsonable(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    return f' {key}="{number(value) if isinstance(value, float) else text(value)}"'


def number(value: float) -> str:
    """A coordinate: two decimals, no trailing zeros."""
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short
