"""What the source says about itself, read without running it: imports, and names with dots."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Import:
    module: str  # dotted; `from a.b import c` is a.b.c
    line: int
    deferred: bool  # within a function, or for type checkers only


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file, `importlib.import_module("name")` included."""
    return tuple(_imports(tree(path), path, deferred=False))


def _imports(node: ast.AST, path: Path, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, deferred)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}:{child.lineno}: a relative import; write it out"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", child.lineno, deferred)
        elif isinstance(child, ast.Call) and _is_dynamic_import(child):
            argument = child.args[0] if child.args else None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield Import(argument.value, child.lineno, deferred)
            yield from _imports(child, path, deferred)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for part in child.body:
                yield from _imports(ast.Module([part], []), path, True)
            for part in child.orelse:
                yield from _imports(ast.Module([part], []), path, deferred)
        else:
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, path, deferred or inner)


def _is_dynamic_import(call: ast.Call) -> bool:
    function = call.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return called in ("import_module", "__import__")


def dotted(node: ast.AST) -> str:
    """`torch.distributed.barrier` for the attribute chain, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = dotted(node.value)
        return f"{above}.{node.attr}" if above else ""
    return ""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
