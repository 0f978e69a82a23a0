"""Policies and a judge -> how good, how safe, how far from where they started, and for how many turns they obey."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import pydantic

from align.config import config, to_plain
from align.errors import RecipeError
from align.rollout.backend import SamplingConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from align.data.tokenizer import Tokenizer
    from align.records import Prompt, Rollout
    from align.rollout.local import LocalEngine

Count = Annotated[int, pydantic.Field(ge=1)]


class Verdict(Protocol):
    """What a judge says of one answer."""

    helpful: float  # [0, 1]
    safe: bool
    refused: bool
    kept: bool | None  # the instruction was obeyed; None where there is none


@config
class DialogueConfig:
    """Long dialogues under an instruction given once, in the system message."""

    prompts: str  # each row: a dialogue of user turns with the instruction (see data_schemas)
    turns: list[Count]  # where the instruction is checked


@config
class Recipe:
    """Judge every policy of a run on the same prompts."""

    stage: Literal["evaluate"]
    seed: int = 0
    policies: dict[str, str]  # name in the table -> artifact
    reference: str  # the artifact that KL is measured to
    judge: str | None = None  # "package.module:function" of (Prompt, answer) -> Verdict; null: reward models only
    helpful: str | None = None  # reward model artifacts
    safety: str | None = None
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.15
    prompts: str
    take: Count | None = None
    dialogues: DialogueConfig | None = None
    sampling: SamplingConfig
    slots: Count = 128


def load_judge(name: str) -> Callable[[Prompt, str], Verdict]:
    """The callable that a recipe names.

    Raises:
        RecipeError: no such module or function.
    """
    import importlib

    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"judge: {name!r} cannot be imported as package.module:function ({error})") from error
