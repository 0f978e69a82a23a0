"""Safety context distillation: which prompts and preprompts, which answer is kept, and what was gained.

An adversarial prompt is answered as it is and with a preprompt before it; the policy is then trained, without the
preprompt, on the second answer where the safety reward model scores it above the first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from align.data.schema import messages_json
from align.data.template import sayable
from align.errors import DataError, nearest
from align.records import Message, Messages, Preprompt, Prompt
from align.stats import estimate, proportion

By: TypeAlias = Literal["category", "generic"]
Form: TypeAlias = Literal["system", "plain"]
Otherwise: TypeAlias = Literal["leave_out", "original"]
Kept: TypeAlias = Literal["distilled", "original"]
NONE = "no category"


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled answer."""

    text: str
    score: float  # of the safety reward model, given the prompt without the preprompt, logits
    finish: Literal["stop", "length"]

    @property
    def usable(self) -> bool:
        """Whether it may be learnt from: it ended, and the chat format can hold it."""
        return self.finish == "stop" and sayable(self.text)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt's two answers."""

    prompt: Prompt
    preprompt: Preprompt
    original: Answer
    distilled: Answer


def adversarial(prompts: Sequence[Prompt], sources: Sequence[str], where: str) -> list[Prompt]:
    """The prompts of kind ``safety``; of the given sources, where some are given.

    Raises:
        DataError: there is none, or no safety prompt is of a source that is named.
    """
    safety = [prompt for prompt in prompts if prompt.kind == "safety"]
    if not safety:
        raise DataError(
            f"{where}: found {len(prompts)} prompts and none of kind safety, expected some: distillation is of "
            "adversarial prompts only"
        )
    known = {prompt.source for prompt in safety}
    for name in sources:
        if name not in known:
            raise DataError(f"{where}: sources: found no safety prompt of {name!r}{nearest(name, known)}")
    return [prompt for prompt in safety if not sources or prompt.source in sources]


def category_of(prompt: Prompt) -> str:
    """A prompt's risk category; empty where its ``meta`` names none."""
    return str(prompt.meta.get("category", ""))


def choose(
    prompts: Sequence[Prompt], preprompts: Sequence[Preprompt], by: By, seed: int, where: str
) -> list[Preprompt]:
    """One preprompt for each prompt.

    Args:
        prompts: adversarial ones.
        preprompts: to choose from, evenly.
        by: ``category`` takes those of the prompt's risk category, and where it has none or the category has none
            those without a category; ``generic`` takes these alone.
        seed: a prompt's choice follows from (seed, its id) alone.
        where: the preprompts' file, named in errors.

    Raises:
        DataError: nothing to choose from for a prompt; or preprompts by category, and no prompt is of any of these.
    """
    named: dict[str, list[Preprompt]] = {}
    for preprompt in preprompts:
        if by == "category" or not preprompt.category:
            named.setdefault(preprompt.category, []).append(preprompt)
    categories = sorted(filter(None, named))
    found = sorted({category_of(prompt) for prompt in prompts} - {""})
    if categories and not set(categories) & set(found):
        hint = nearest(found[0], categories) if found else ""
        raise DataError(
            f"{where}: found preprompts of the categories {', '.join(categories)} and prompts (meta.category) of "
            f"{', '.join(found) or 'none'}{hint}, expected some of the same; by: generic asks for none"
        )
    chosen = []
    for prompt in prompts:
        mine = named.get(category_of(prompt)) or named.get("")
        if not mine:
            raise DataError(
                f"{where}: found no preprompt for prompt {prompt.id} ({category_of(prompt) or NONE}), expected one of "
                "its category or one without a category"
            )
        chosen.append(random.Random(f"distill {seed} {prompt.id}").choice(mine))
    return chosen


def prefixed(messages: Messages, preprompt: str, form: Form) -> Messages:
    """What the safe answer is sampled from.

    Args:
        messages: end with user.
        preprompt: the text.
        form: ``system`` puts it into the system message, before what stands there; ``plain`` before the last user
            message.
    """
    if form == "plain":
        return (*messages[:-1], Message("user", f"{preprompt}\n\n{messages[-1].content}"))
    if messages[0].role == "system":
        return (Message("system", f"{preprompt}\n\n{messages[0].content}"), *messages[1:])
    return (Message("system", preprompt), *messages)


def kept(pair: Pair, gate: bool, otherwise: Otherwise) -> Kept | None:
    """Which answer is trained on, None for neither.

    Args:
        pair: both answers.
        gate: the distilled answer must score above the original one.
        otherwise: what becomes of a prompt whose distilled answer does not.
    """
    if pair.distilled.usable and (not gate or pair.distilled.score > pair.original.score):
        return "distilled"
    return "original" if otherwise == "original" and pair.original.usable else None


def as_dialog(pair: Pair, which: Kept, told: Mapping[str, Any]) -> dict[str, Any]:
    """The dialogue to learn from, without the preprompt; ``told`` joins what its ``meta`` says of it."""
    answer: Answer = getattr(pair, which)
    meta = {
        "prompt_id": pair.prompt.id, "kept": which, "category": category_of(pair.prompt),
        "preprompt": pair.preprompt.text, "score": answer.score, "score_original": pair.original.score, **told,
    }  # fmt: skip
    said = [*messages_json(pair.prompt.messages), {"role": "assistant", "content": answer.text}]
    return {"messages": said, "source": pair.prompt.source, "meta": meta}


def as_row(pair: Pair, which: Kept | None) -> dict[str, Any]:
    """Both answers, as a row of data_schemas/distilled.json."""
    row: dict[str, Any] = {"prompt_id": pair.prompt.id, "prompt": messages_json(pair.prompt.messages)}
    if category_of(pair.prompt):
        row["category"] = category_of(pair.prompt)
    row["preprompt"] = pair.preprompt.text
    for name, answer in (("original", pair.original), ("distilled", pair.distilled)):
        row[name] = {"answer": answer.text, "score": answer.score, "finish": answer.finish}
    return row | {"kept": which} | ({"source": pair.prompt.source} if pair.prompt.source else {})


def gains(pairs: Sequence[Pair], chosen: Sequence[Kept | None]) -> dict[str, Any]:
    """What distillation gained, over all prompts and by category.

    Args:
        pairs: of each prompt.
        chosen: what is trained on of each.

    Returns:
        ``all``, and ``categories`` by name: prompts; ``original`` and ``distilled``, the mean safety score of these
        answers (logits; value, se, n), and ``gain``, of the second over the first, paired; ``better``, the share of
        prompts whose distilled answer scores higher (with interval); ``trained``, the mean score of what is trained
        on; counts of rows kept (``distilled_rows``, ``original_rows``, ``left_out``) and of distilled answers that
        cannot be learnt from (``unusable``).
    """
    groups: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(category_of(pair.prompt) or NONE, []).append(place)
    everything = list(range(len(pairs)))
    return {
        "all": _cell(pairs, chosen, everything),
        "categories": {name: _cell(pairs, chosen, groups[name]) for name in sorted(groups)},
    }


def _cell(pairs: Sequence[Pair], chosen: Sequence[Kept | None], places: Sequence[int]) -> dict[str, Any]:
    mine = [pairs[place] for place in places]
    which = [chosen[place] for place in places]
    trained = [getattr(pair, one).score for pair, one in zip(mine, which, strict=True) if one]
    return {
        "prompts": len(mine),
        "original": estimate([pair.original.score for pair in mine]),
        "distilled": estimate([pair.distilled.score for pair in mine]),
        "gain": estimate([pair.distilled.score - pair.original.score for pair in mine]),
        "better": proportion([float(pair.distilled.score > pair.original.score) for pair in mine]),
        "trained": estimate(trained),
        "distilled_rows": which.count("distilled"),
        "original_rows": which.count("original"),
        "left_out": which.count(None),
        "unusable": sum(not pair.distilled.usable for pair in mine),
    }
