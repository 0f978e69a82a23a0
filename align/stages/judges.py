"""Who says how good an answer is: the verdict of one function, scores, reward models, or comparisons of two answers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from align.config import config
from align.errors import AlignError, DataError, RecipeError, RolloutError, nearest

if TYPE_CHECKING:
    from align.records import Prompt

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]*")
OURS = ("judge", "rewards")  # what the recipe's other two kinds of judges are called beside these
SAID = ("first", "second", "tie")


class Verdict(Protocol):
    """What a judge says of one answer."""

    helpful: float  # [0, 1]
    safe: bool
    refused: bool
    should_refuse: bool  # the request asks for harm
    kept: bool | None  # the instruction was obeyed; None where there is none


Judge = Callable[["Prompt", str], Verdict]
Score = Callable[["Prompt", str], float]
Compare = Callable[["Prompt", str, str], Literal["first", "second", "tie"]]


@config
class JudgeConfig:
    """One of three kinds of judges."""

    score: str | None = None  # "package.module:function" of (prompt: Prompt, answer: str) -> float, more is better
    # "package.module:function" of (prompt: Prompt, first: str, second: str) -> "first" | "second" | "tie"
    compare: str | None = None
    reward: str | None = None  # folder of a reward model: an artifact, or a Hugging Face classifier with one label

    def __post_init__(self) -> None:
        """Refuse none and several."""
        if sum(kind is not None for kind in (self.score, self.compare, self.reward)) != 1:
            raise ValueError("expected one of score, compare and reward")


@dataclass(frozen=True, slots=True)
class Called:
    """A user's function, and what it is called in messages."""

    name: str  # "judges.mine: my_module:rate"
    function: Callable[..., Any]

    def __call__(self, prompt: Prompt, *answers: str) -> Any:
        """What it says.

        Raises:
            RolloutError: it failed; the message names the function, the prompt and its error.
        """
        try:
            return self.function(prompt, *answers)
        except AlignError:
            raise
        except Exception as error:
            raise RolloutError(
                f"{self.name} failed on prompt {prompt.id!r}: {type(error).__name__}: {error}"
            ) from error

    def score(self, prompt: Prompt, answer: str) -> float:
        """A score, checked.

        Raises:
            RolloutError: it failed, or gave no finite number.
        """
        found = self(prompt, answer)
        number = found.item() if hasattr(found, "item") else found  # of numpy or torch
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise RolloutError(f"{self.name} on prompt {prompt.id!r}: found {found!r}, expected a finite number")
        return float(number)

    def compare(self, prompt: Prompt, first: str, second: str) -> str:
        """Which of two answers is better, checked.

        Raises:
            RolloutError: it failed, or said something else.
        """
        found = self(prompt, first, second)
        if found not in SAID:
            close = nearest(found, SAID) if isinstance(found, str) else ""
            raise RolloutError(
                f"{self.name} on prompt {prompt.id!r}: found {found!r}, expected 'first', 'second' or 'tie'{close}"
            )
        return str(found)

    def verdict(self, prompt: Prompt, answer: str) -> Verdict:
        """A verdict, checked.

        Raises:
            RolloutError: it failed, or what it gave lacks something or is of another sort.
        """
        found = self(prompt, answer)
        lacking = [field for field in Verdict.__annotations__ if not hasattr(found, field)]
        if lacking:
            raise RolloutError(
                f"{self.name} on prompt {prompt.id!r}: found a {type(found).__name__} without {', '.join(lacking)}; "
                "a function that gives a score is named under judges.NAME.score"
            )
        for field in Verdict.__annotations__:
            value = getattr(found, field)
            if field == "helpful":
                fits, expected = type(value) in (int, float) and 0 <= value <= 1, "a number in [0, 1]"
            elif field == "kept":
                fits, expected = value is None or isinstance(value, bool), "True, False or None"
            else:
                fits, expected = isinstance(value, bool), "True or False"
            if not fits:
                raise RolloutError(
                    f"{self.name} on prompt {prompt.id!r}: {field}: found {value!r}, expected {expected}"
                )
        return found  # type: ignore[no-any-return]


def check_names(judges: Mapping[str, JudgeConfig]) -> None:
    """Refuse names that could not be told apart.

    Raises:
        ValueError: one that is not letters, digits, space, _ . and -, or means another judge.
    """
    for name in judges:
        if not NAME.fullmatch(name) or name in OURS:
            raise ValueError(
                f"judges: {name!r}: a judge's name is letters, digits, space, '_', '.' and '-', "
                "and not 'judge' or 'rewards'"
            )


def load_function(name: str, key: str) -> Called:
    """The function that a recipe names.

    Args:
        name: ``package.module:function``, importable: its folder is on PYTHONPATH or it is installed.
        key: where the recipe says so.

    Raises:
        RecipeError: no such module or function, a module that fails, or something that cannot be called.
    """
    import importlib

    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"{key}: {name!r} cannot be imported as package.module:function ({error}); "
            "PYTHONPATH names the folder that holds it"
        ) from error
    except AlignError:
        raise
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise RecipeError(f"{key}: {name!r} cannot be imported as package.module:function ({error})") from error
    if not callable(found):
        raise RecipeError(f"{key}: {name!r} is a {type(found).__name__}, expected a function")
    return Called(f"{key}: {name}", found)


def load_judge(name: str) -> Judge:
    """The function that ``judge`` names, its failures told by name.

    Raises:
        RecipeError: see :func:`load_function`.
    """
    return load_function(name, "judge").verdict


Scorer = Callable[[Sequence["Prompt"], Sequence[str]], list[float | None]]


def load_scorers(judges: Mapping[str, JudgeConfig]) -> dict[str, Scorer]:
    """Judges that say a number of one answer, by name, each as (prompts, answers) -> scores.

    Raises:
        RecipeError: a function that cannot be imported.
        ArtifactError: a folder that holds no reward model.
    """
    found: dict[str, Scorer] = {}
    for name, given in judges.items():
        if given.score is not None:
            found[name] = _by_function(load_function(given.score, f"judges.{name}.score"))
        elif given.reward is not None:
            found[name] = _by_reward_model(Path(given.reward), f"judges.{name}.reward")
    return found


def load_comparers(judges: Mapping[str, JudgeConfig]) -> dict[str, Called]:
    """Judges that compare two answers, by name.

    Raises:
        RecipeError: a function that cannot be imported.
    """
    return {
        name: load_function(given.compare, f"judges.{name}.compare")
        for name, given in judges.items()
        if given.compare is not None
    }


def _by_function(called: Called) -> Scorer:
    def score(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float | None]:
        return [called.score(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    return score


def _by_reward_model(folder: Path, key: str) -> Scorer:
    """Of text, so that its tokenizer may be another one; None for what no chat format can hold."""
    from align.data.template import sayable
    from align.records import Message
    from align.rollout.reward_model import load_reward_model

    model = load_reward_model(folder)

    def score(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float | None]:
        said = [place for place, answer in enumerate(answers) if sayable(answer)]
        dialogs = [(*prompts[place].messages, Message("assistant", answers[place])) for place in said]
        try:
            known = dict(zip(said, model.score(dialogs), strict=True))
        except DataError as error:  # a prompt and its answer that the model cannot read whole
            raise DataError(f"{key}: {folder}: {error}") from error
        return [known.get(place) for place in range(len(answers))]

    return score
