from __future__ import annotations

import inspect
import re

import pytest

from align import errors
from align.errors import AlignError, RunError, ShapeError, nearest

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AlignError)]


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").split("::\n")[1].splitlines():
        name = re.search(r"[A-Z]\w+Error", line)
        if name is None:
            continue
        depth = name.start()
        above = [item for item in above if item[0] < depth]
        drawn[name[0]] = above[-1][1] if above else "Exception"
        above.append((depth, name[0]))
    assert drawn == {c.__name__: c.__bases__[0].__name__ for c in CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
def test_exit_codes(cls: type[AlignError]) -> None:
    assert cls.exit_code == (1 if issubclass(cls, RunError) else 2)


def test_a_shape_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="shapes"):
        raise ShapeError("shapes")


def test_nearest() -> None:
    assert nearest("polcy", ["policy", "prompts"]) == " (did you mean 'policy'?)"
    assert nearest("zzz", ["policy", "prompts"]) == ""
    assert nearest("x", []) == ""
