"""Every deliberate error of the library.

::

    AlignError                 exit code 2: the user can mend it
    ├── RecipeError            a recipe: unknown key, wrong type, value out of range, missing file
    ├── DataError              a row of a data file: file, line, field, found, expected
    │   └── TemplateError      a dialogue that the chat format refuses: role order, tag in content
    ├── ArtifactError          a folder that is missing, incomplete or whose digests differ
    │   └── WeightsError       a tensor that is missing, left over or of another shape
    ├── ShapeError             tensors that had to be of one shape (a ValueError too)
    └── RunError               exit code 1: the input was fine, the run was not
        ├── TrainingError      no counted token, NaN, a bound exceeded
        ├── RolloutError       an actor failed, hung or answered wrongly
        └── LaunchError        a process or a cluster could not be started or died

A message names the file, line or key, what was found, what was expected and, for a name, the nearest valid one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AlignError(Exception):
    """Base of all deliberate errors; the command line prints its message as one line."""

    exit_code = 2


class RecipeError(AlignError):
    """A recipe cannot be used as written."""


class DataError(AlignError):
    """A row or file of data cannot be used as written."""


class TemplateError(DataError):
    """A dialogue that the chat format refuses."""


class ArtifactError(AlignError):
    """An artifact folder is missing, incomplete or altered."""


class WeightsError(ArtifactError):
    """A checkpoint's tensors do not fit the model."""


class ShapeError(AlignError, ValueError):
    """Tensors that had to have one shape do not."""


class RunError(AlignError):
    """The input was fine and the run failed."""

    exit_code = 1


class TrainingError(RunError):
    """Training cannot go on."""


class RolloutError(RunError):
    """Sampling or scoring cannot go on."""


class LaunchError(RunError):
    """Processes or a cluster could not be started, or died."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the closest valid name, or ``""`` where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
