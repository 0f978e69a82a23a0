"""What is wrong with a row, in one line, by its JSON Schema."""

from __future__ import annotations

import json
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import nearest

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError


def schema_folder() -> Path:
    """The folder of schemas: the checkout's, or the one that an installed wheel brings."""
    checkout = Path(__file__).resolve().parents[2] / "data_schemas"
    if checkout.is_dir():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "align" / "data_schemas"


@cache
def validator(name: str) -> Draft202012Validator:
    """The validator of a schema by its file's stem, e.g. ``preference``."""
    from jsonschema import Draft202012Validator, FormatChecker

    schema = json.loads((schema_folder() / f"{name}.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema, format_checker=FormatChecker())


def explain(name: str, row: Any) -> str | None:
    """``field: found …, expected …`` for the first mistake of a row, or None where it is valid."""
    errors = sorted(validator(name).iter_errors(row), key=lambda e: (len(e.path), [str(p) for p in e.path]))
    return _line(errors[0]) if errors else None


def _line(error: ValidationError) -> str:
    path = ".".join(str(step) for step in error.absolute_path)
    found: Any = error.instance
    rule: Any = error.validator_value
    schema: Any = error.schema
    kind = error.validator
    prefix = f"{path}: " if path else ""
    if kind == "required":
        missing = [key for key in rule if key not in found]
        known = schema.get("properties", {})
        close = nearest(missing[0], [key for key in found if key not in known])
        hint = close.replace("did you mean", "instead there is").replace("?", "")
        return f"{prefix}{missing[0]}: found no such field{hint}, expected one"
    if kind == "additionalProperties":
        known = schema.get("properties", {})
        unknown = next(key for key in found if key not in known)
        return f"{prefix}{unknown}: unknown field{nearest(unknown, known)}, expected only {', '.join(known)}"
    if kind == "not":
        return (
            "chosen_safe: found false with rejected_safe true, expected no unsafe answer above a safe one "
            "(paper section 3.2.1 excludes such pairs)"
        )
    if kind == "oneOf":  # in our schemas: one of several columns
        names = [name for option in rule for name in option["required"]]
        there = " and ".join(name for name in names if name in found) or f"neither {' nor '.join(names)}"
        return f"{prefix}found {there}, expected one of {' and '.join(names)}"
    if kind in ("enum", "const"):
        options = [rule] if kind == "const" else rule
        close = nearest(found, [str(o) for o in options]) if isinstance(found, str) else ""
        return f"{prefix}found {_short(found)}, expected {' or '.join(repr(o) for o in options)}{close}"
    if kind == "type":
        wanted = " or ".join(rule) if isinstance(rule, list) else rule
        return f"{path or 'row'}: found {_short(found)}, expected {wanted}"
    if kind in ("minLength", "minItems"):
        unit = "characters" if kind == "minLength" else "items"
        return f"{prefix}found {_short(found)}, expected at least {rule} {unit}"
    return f"{prefix}found {_short(found)}, expected {kind} {rule}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}…"
