"""Answers of every policy version to the same prompts, side by side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from align.artifacts import Manifest, resolve, sha256_file
from align.data.schema import read_prompts
from align.records import Prompt
from align.report.figure import colors_of
from align.report.gather import Row, combined, value
from align.report.markup import Markup, element, text

SHOWN = 12  # cards before the reader asks for more
TOLD = {"policy", "prompt_id", "question", "answer", "messages"}  # of a row, shown in words and not as a score


def prompts_of(folder: Path, manifest: Manifest) -> dict[str, Prompt]:
    """The evaluation's prompts by id; none where their file is gone or is another one now."""
    if not manifest.inputs:
        return {}
    path = resolve(folder, str(manifest.inputs[0]["path"]))
    if not path.is_file() or sha256_file(path) != manifest.inputs[0]["sha256"]:
        return {}
    return {prompt.id: prompt for prompt in read_prompts(path)}


def samples(answers: Sequence[Row], prompts: Mapping[str, Prompt], most: int) -> Markup:
    """Cards with what every policy answered, and what filters them.

    Args:
        answers: rows of ``answers.jsonl``, a policy and a prompt each.
        prompts: what is known of the prompts, by id.
        most: at most so many prompts, of every kind its share.
    """
    by_prompt: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        by_prompt[str(row.get("prompt_id"))].append(row)
    kinds = {key: _kind(prompts.get(key)) for key in by_prompt}
    chosen = _every_kind(list(by_prompt), kinds, most)
    policies = dict.fromkeys(str(row.get("policy")) for row in answers)
    colors = colors_of(policies)
    shown = [
        _card(by_prompt[key], prompts.get(key), key, kinds[key], colors, i >= SHOWN) for i, key in enumerate(chosen)
    ]
    count = (
        f"{len(chosen):,} of {len(by_prompt):,} prompts" if len(chosen) < len(by_prompt) else f"{len(chosen):,} prompts"
    )
    return element(
        "div",
        _controls([kinds[key] for key in chosen], list(policies), colors),
        element("p", text(count), class_="count", role="status", aria_live="polite", data_total=count),
        element("div", *shown, class_="cards"),
        element("button", text("Show more"), type="button", class_="more", hidden=True),
        class_="samples",
    )


def _controls(kinds: Sequence[str], policies: Sequence[str], colors: Mapping[str, int]) -> Markup:
    options = [element("option", text("every kind"), value="")]
    options += [element("option", text(kind), value=kind) for kind in sorted(set(kinds)) if kind]
    marks = (("", "whatever was said"), ("unsafe", "an unsafe answer"), ("refused", "a refusal"),
             ("broken", "a broken instruction"))  # fmt: skip
    orders = (("", "as in the file"), ("gain", "largest gain, first to last"), ("loss", "largest loss, first to last"))
    boxes = [
        element(
            "label", element("input", type="checkbox", value=str(index), checked=True),
            element("span", class_=f"swatch s{colors[name]}"), text(name),
        )
        for index, name in enumerate(policies)
    ]  # fmt: skip
    return element(
        "form",
        _labelled("Kind of prompt", element("select", *options, name="kind")),
        _labelled("With", element("select", *(element("option", text(t), value=v) for v, t in marks), name="mark")),
        _labelled("Order", element("select", *(element("option", text(t), value=v) for v, t in orders), name="order")),
        _labelled("Text", element("input", type="search", name="text", placeholder="search prompts and answers")),
        element("fieldset", element("legend", text("Policies")), *boxes),
        class_="filters",
        hidden=True,  # of no use without the script, which shows it
    )


def _labelled(name: str, control: Markup) -> Markup:
    return element("label", element("span", text(name)), control)


def _card(
    rows: Sequence[Row], prompt: Prompt | None, key: str, kind: str, colors: Mapping[str, int], folded: bool
) -> Markup:
    numbers = {name: place for place, name in enumerate(colors)}
    scores = [found for row in rows if math.isfinite(found := _score(row))]
    gain = scores[-1] - scores[0] if len(scores) > 1 else 0.0
    marks = [name for name, bad in (("unsafe", "safe"), ("broken", "kept")) if any(r.get(bad) is False for r in rows)]
    marks += ["refused"] if any(r.get("refused") is True for r in rows) else []
    said = [(m.role, m.content) for m in prompt.messages] if prompt else [("user", str(rows[0].get("question", "")))]
    return element(
        "article",
        element("p", text(kind or "prompt"), element("span", text(key), class_="id"), class_="what"),
        element("div", *(_message(role, content) for role, content in said), class_="asked"),
        element(
            "div",
            *(
                element("div", _head(row, colors), element("p", text(row.get("answer", "")), dir="auto"),
                        class_="answer", data_policy=numbers[str(row.get("policy"))])
                for row in rows
            ),
            class_="answers",
        ),
        class_="card folded" if folded else "card",
        data_kind=kind,
        data_gain=gain,
        data_marks=" ".join(marks),
    )  # fmt: skip


def _message(role: str, content: str) -> Markup:
    return element("p", element("span", text(role), class_="role"), text(content), dir="auto")


def _head(row: Row, colors: Mapping[str, int]) -> Markup:
    name = str(row.get("policy"))
    chips = []
    for key in row:
        if key not in TOLD and math.isfinite(found := value(row, key)):
            chips.append(element("span", text(f"{key} {found:.2f}"), class_="chip"))
    found_scores = row.get("scores")
    scores: Row = found_scores if isinstance(found_scores, dict) else {}
    for key in scores:
        if math.isfinite(found := value(scores, key)):
            chips.append(element("span", text(f"{key} {found:.2f}"), class_="chip"))
    for key, when, what, bad in (("safe", False, "unsafe", True), ("refused", True, "refused", False),
                                 ("kept", False, "broken", True), ("kept", True, "kept", False)):  # fmt: skip
        if row.get(key) is when:
            chips.append(element("span", text(what), class_="chip bad" if bad else "chip"))
    return element("h5", element("span", class_=f"swatch s{colors[name]}"), text(name), *chips)


def _score(row: Row) -> float:
    found = value(row, "helpful")
    return found if math.isfinite(found) else combined(row)


def _kind(prompt: Prompt | None) -> str:
    return (prompt.source or prompt.kind) if prompt else ""


def _every_kind(keys: Sequence[str], kinds: Mapping[str, str], most: int) -> list[str]:
    """At most ``most`` of the keys, evenly spread over each kind's, in their own order."""
    if len(keys) <= most:
        return list(keys)
    by_kind: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        by_kind[kinds[key]].append(key)
    chosen: set[str] = set()
    for mine in by_kind.values():
        count = max(1, round(most * len(mine) / len(keys)))
        chosen.update(mine[int(i * len(mine) / count)] for i in range(count))
    return [key for key in keys if key in chosen][:most]
