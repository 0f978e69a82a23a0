"""JSONL, Parquet or a hub set <-> records. A row that cannot be used is named by file, line and field.

The JSON Schemas in ``data_schemas/`` say what a row looks like; the order of roles and tags within content
are the chat format's to check (:mod:`align.data.template`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from align.data.explain import explain
from align.data.files import Place, read_rows
from align.data.plain import PLAIN
from align.data.template import check_messages
from align.errors import DataError
from align.records import Comparison, Constraint, Dialog, Message, Messages, Preference, Preprompt, Prompt, Ranking

R = TypeVar("R")
Record = Dialog | Preference | Ranking | Prompt | Constraint | Preprompt


@dataclass(slots=True)
class Skipped:
    """Bad rows set aside: pass one to a reader instead of stopping at the first bad row."""

    into: Path | None = None  # a JSONL of {line, error, row}; <data file>.bad.jsonl where None
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Rows set aside so far."""
        return len(self.rows)


def read_dialogs(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Dialog]:
    """Dialogues to learn from.

    Args:
        path: a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, or ``hf:owner/name[:split]``, a hub set.
        skip_bad: sets bad rows aside, writes them to its file at the end and counts them.

    Raises:
        DataError: no such file, or a bad row: file, line, field, found, expected (as in every reader here).
    """
    return _read(path, "dialogue", _dialog, skip_bad)


def read_preferences(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Preference]:
    """Pairs of answers; a chosen answer that is unsafe beside a safe rejected one is refused."""
    return _read(path, "preference", _preference, skip_bad)


def read_rankings(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Ranking]:
    """K answers to one prompt, ranked or compared two by two."""
    return _read(path, "ranking", _ranking, skip_bad)


def read_prompts(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Prompt]:
    """Dialogues to be answered; ids are unique within the file."""
    seen: set[str] = set()

    def once(row: dict[str, Any], where: str) -> Prompt:
        prompt = _prompt(row, where)
        if prompt.id in seen:
            raise DataError(f"{where}: id: found {prompt.id!r} a second time, expected unique ids")
        seen.add(prompt.id)
        return prompt

    return _read(path, "prompt", once, skip_bad)


def read_constraints(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Constraint]:
    """Instructions that must hold for a whole dialogue."""
    return _read(path, "constraint", _constraint, skip_bad)


def read_preprompts(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[Preprompt]:
    """What is put before adversarial prompts, by risk category or for any."""
    return _read(path, "preprompt", _preprompt, skip_bad)


def read_rollouts(path: str | Path, skip_bad: Skipped | None = None) -> Iterator[dict[str, Any]]:
    """Sampled and scored answers, as plain rows."""
    return _read(path, "rollout", lambda row, where: row, skip_bad)


def to_json(record: Record) -> dict[str, Any]:
    """A record as the row that reads back to it; what is empty or unknown is left out."""
    row: dict[str, Any] = {}
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if item.name == "answers":
            row["answers"] = [messages_json(answer) for answer in value]
        elif item.name in ("prompt", "chosen", "rejected"):
            row[item.name] = messages_json(value)
        elif item.name == "messages":
            row["prompt" if isinstance(record, Prompt) else "messages"] = messages_json(value)
        elif item.name == "comparisons":
            row |= {"comparisons": [_comparison_json(one) for one in value]} if value else {}
        elif item.name in ("ranks", "votes"):
            row |= {item.name: list(value)} if value else {}
        elif not (value is None or (item.name in ("source", "meta", "category") and not value)):
            row[item.name] = dict(value) if item.name == "meta" else value
    return row


def messages_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as the ecosystem's ``[{"role": …, "content": …}, …]``."""
    return [{"role": message.role, "content": message.content} for message in messages]


def messages_of(values: Sequence[Mapping[str, Any]]) -> Messages:
    """Messages from rows already known to be well formed."""
    return tuple(Message(value["role"], value["content"]) for value in values)


def _read(
    path: str | Path, name: str, build: Callable[[dict[str, Any], str], R], skip_bad: Skipped | None
) -> Iterator[R]:
    for place, row in read_rows(path):
        try:
            if isinstance(row, DataError):
                raise row
            if not PLAIN[name](row):
                problem = explain(name, row)
                if problem:
                    raise DataError(f"{place}: {problem}")
            record = build(row, str(place))
        except DataError as error:
            if skip_bad is None:
                raise
            raw = place.raw if isinstance(row, DataError) else row
            skip_bad.rows.append({"line": place.line, "error": str(error), "row": raw})
            continue
        yield record
    if skip_bad is not None:
        _set_aside(path, skip_bad)


def _set_aside(path: str | Path, skipped: Skipped) -> None:
    from align.files import write_jsonl

    if skipped.into is None:
        name = str(path)
        skipped.into = Path((name[3:].replace("/", "_") if name.startswith("hf:") else name) + ".bad.jsonl")
    if skipped.rows:
        write_jsonl(skipped.into, skipped.rows)
    else:
        skipped.into.unlink(missing_ok=True)  # of an earlier run


def _checked(values: Any, where: str, ends: Literal["user", "assistant"]) -> Messages:
    messages = messages_of(values)
    check_messages(messages, where, ends=ends)
    return messages


def _answer(prompt: Messages, values: Any, where: str) -> Messages:
    answer = messages_of(values)
    check_messages((*prompt, *answer), where)
    return answer


def _dialog(row: dict[str, Any], where: str) -> Dialog:
    messages = _checked(row["messages"], f"{where}: messages", "assistant")
    return Dialog(messages=messages, source=row.get("source", ""))


def _preference(row: dict[str, Any], where: str) -> Preference:
    prompt = _checked(row["prompt"], f"{where}: prompt", "user")
    return Preference(
        prompt=prompt,
        chosen=_answer(prompt, row["chosen"], f"{where}: prompt + chosen"),
        rejected=_answer(prompt, row["rejected"], f"{where}: prompt + rejected"),
        rating=row.get("rating", "negligibly"),
        chosen_safe=row.get("chosen_safe"),
        rejected_safe=row.get("rejected_safe"),
        votes=tuple(row.get("votes", ())),
        kind=row.get("kind", "helpful"),
        source=row.get("source", ""),
    )


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {"pair": list(comparison.pair), "chosen": comparison.chosen, "rating": comparison.rating}


def _ranking(row: dict[str, Any], where: str) -> Ranking:
    prompt = _checked(row["prompt"], f"{where}: prompt", "user")
    answers, ranks = row["answers"], row.get("ranks", [])
    if ranks and len(answers) != len(ranks):
        raise DataError(f"{where}: ranks: found {len(ranks)}, expected {len(answers)}, one for each answer")
    return Ranking(
        prompt=prompt,
        answers=tuple(_answer(prompt, a, f"{where}: prompt + answers.{i}") for i, a in enumerate(answers)),
        ranks=tuple(int(rank) for rank in ranks),
        comparisons=_comparisons(row.get("comparisons", []), len(answers), where),
        kind=row.get("kind", "helpful"),
        source=row.get("source", ""),
        meta=row.get("meta", {}),
    )


def _comparisons(values: list[dict[str, Any]], answers: int, where: str) -> tuple[Comparison, ...]:
    made: list[Comparison] = []
    seen: set[frozenset[int]] = set()
    for number, value in enumerate(values):
        place = f"{where}: comparisons.{number}"
        first, second = (int(index) for index in value["pair"])
        if first == second or max(first, second) >= answers:
            raise DataError(
                f"{place}.pair: found {value['pair']}, expected two different answers of 0 to {answers - 1}"
            )
        if value["chosen"] not in (first, second, None):
            raise DataError(f"{place}.chosen: found {value['chosen']}, expected {first}, {second} or null (a tie)")
        if frozenset((first, second)) in seen:
            raise DataError(f"{place}.pair: found {value['pair']} a second time, expected each pair at most once")
        seen.add(frozenset((first, second)))
        chosen = None if value["chosen"] is None else int(value["chosen"])
        made.append(Comparison(pair=(first, second), chosen=chosen, rating=value.get("rating", "negligibly")))
    return tuple(made)


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    return Prompt(
        id=row["id"],
        messages=_checked(row["prompt"], f"{where}: prompt", "user"),
        kind=row.get("kind", "helpful"),
        source=row.get("source", ""),
        meta=row.get("meta", {}),
    )


def _constraint(row: dict[str, Any], where: str) -> Constraint:
    check_messages((Message("user", row["instruction"]),), f"{where}: instruction", ends="user")
    check_messages((Message("user", row["short"]),), f"{where}: short", ends="user")
    return Constraint(kind=row["kind"], instruction=row["instruction"], short=row["short"], meta=row.get("meta", {}))


def _preprompt(row: dict[str, Any], where: str) -> Preprompt:
    check_messages((Message("user", row["text"]),), f"{where}: text", ends="user")
    return Preprompt(text=row["text"], category=row.get("category", ""), meta=row.get("meta", {}))


__all__ = [
    "Place",
    "Record",
    "Skipped",
    "messages_json",
    "messages_of",
    "read_constraints",
    "read_dialogs",
    "read_preferences",
    "read_preprompts",
    "read_prompts",
    "read_rankings",
    "read_rollouts",
    "to_json",
]
