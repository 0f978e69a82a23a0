"""`align mask`: encoded rows on the terminal, each token coloured by whether the loss counts it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.errors import RecipeError

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.records import Messages, Row

Train = Literal["all", "last"]


def show_rows(source: Path, tokenizer: Path | None, train: Train, rows: int, color: bool | None) -> None:
    """Print the first rows of a data file, or of each data file of an SFT recipe.

    Args:
        source: a data file of dialogues, preferences, rankings or prompts; or an SFT recipe.
        tokenizer: the model file or the folder it lies in; a recipe's own policy by default.
        train: which answers count, where the recipe does not say.
        rows: of each file.
        color: None where the terminal decides.

    Raises:
        AlignError: a mistake in the recipe or the data.
    """
    from rich.console import Console

    from align.data.template import render
    from align.data.tokenizer import Tokenizer

    files: list[tuple[str, Train]] = [(str(source), train)]
    if source.suffix in (".yaml", ".yml"):
        files, tokenizer = _of_recipe(source, tokenizer)
    if tokenizer is None:
        raise RecipeError("--tokenizer: must be given: a tokenizer.model or the folder it lies in")
    tok = Tokenizer(tokenizer / "tokenizer.model" if tokenizer.is_dir() else tokenizer)
    console = Console(force_terminal=color, highlight=False, soft_wrap=True)
    for path, which in files:
        for title, row in itertools.islice(_rows(path, tok, which), rows):
            counted = int(row.mask.sum())
            console.print(f"{title}: {len(row.tokens)} tokens, {counted} count", style="bold")
            console.print(render(tok, row))


def _of_recipe(source: Path, tokenizer: Path | None) -> tuple[list[tuple[str, Train]], Path | None]:
    from align.runner import load_task

    task = load_task(source, default_out=Path("unnamed"))
    if task.stage != "sft":
        raise RecipeError(f"{source}: stage: found {task.stage!r}; rows of an SFT recipe can be shown")
    recipe: Any = task.recipe
    return [(item.path, item.train) for item in recipe.data], tokenizer or Path(recipe.policy)


def _rows(path: str, tokenizer: Tokenizer, train: Train) -> Iterator[tuple[str, Row]]:
    from align.data.files import read_rows
    from align.data.schema import read_dialogs, read_preferences, read_prompts, read_rankings

    _, first = next(read_rows(path), (None, {}))
    keys = set(first) if isinstance(first, dict) else set()
    number = itertools.count(1)
    if "chosen" in keys:
        for pair in read_preferences(path):
            at = f"{path}:{next(number)}"
            yield f"{at} chosen", _dialog(tokenizer, pair.prompt + pair.chosen, train, at)
            yield f"{at} rejected", _dialog(tokenizer, pair.prompt + pair.rejected, train, at)
    elif "answers" in keys:
        for ranking in read_rankings(path):
            at = f"{path}:{next(number)}"
            for index, answer in enumerate(ranking.answers):
                yield f"{at} answers.{index}", _dialog(tokenizer, ranking.prompt + answer, train, at)
    elif "prompt" in keys:
        for prompt in read_prompts(path):
            at = f"{path}:{next(number)}"
            yield at, _prompt(tokenizer, prompt.messages, at)
    else:
        for dialog in read_dialogs(path):
            at = f"{path}:{next(number)}"
            yield at, _dialog(tokenizer, dialog.messages, train, at)


def _dialog(tokenizer: Tokenizer, messages: Messages, train: Train, where: str) -> Row:
    from align.data.template import encode_dialog

    return encode_dialog(tokenizer, messages, train, where)


def _prompt(tokenizer: Tokenizer, messages: Messages, where: str) -> Row:
    import numpy as np

    from align.data.template import encode_prompt
    from align.records import Row

    tokens = encode_prompt(tokenizer, messages, where)
    return Row(np.array(tokens, np.int32), np.zeros(len(tokens), np.bool_))
