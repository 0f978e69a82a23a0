"""Rows of public data sets -> examples: a prompt, its answer and, where there is one, the answer that lost.

Anthropic's HH-RLHF text, TRL's dataset formats, UltraFeedback (scores), PandaLM (votes), Dolly, self-instruct, and
instructions as Flan's and Alpaca's collections write them (LLaMA-I was tuned on such).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from align.data.template import check_messages
from align.errors import DataError, TemplateError
from align.records import Comparison, Kind, Message, Messages, Rating, Role, Vote

Format = Literal[
    "hh", "trl", "ultrafeedback", "finegrained", "dolly", "self_instruct", "instructions", "pandalm", "xstest"
]
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES: Mapping[str, Role] = {"Human": "user", "Assistant": "assistant"}
# ShareGPT's names beside the standard ones
_CHATML: Mapping[str, Role] = {
    "human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant",
}  # fmt: skip


class UnfitError(DataError):
    """A row that cannot become an example; ``reason`` groups such rows in the counts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Example:
    """What a row of any format says."""

    prompt: Messages
    chosen: Messages = ()  # empty where there is a prompt only
    rejected: Messages = ()
    gap: float | None = None  # score of chosen - score of rejected, where scored
    votes: tuple[Vote, ...] = ()  # of several annotators
    answers: tuple[Messages, ...] = ()  # where more than two were compared, in place of chosen and rejected
    comparisons: tuple[Comparison, ...] = ()  # of the answers
    meta: Mapping[str, Any] = field(default_factory=dict)  # whatever else the row says
    kind: Kind | None = None  # where the row says it; else the job does
    source: str = ""  # what the row adds to the job's source


def hh(row: Mapping[str, Any]) -> Iterator[Example]:
    r"""``{"chosen": "\n\nHuman: … \n\nAssistant: …", "rejected"?: …}``; the last answer is the answer."""
    chosen = hh_messages(_text(row, "chosen"))
    if "rejected" not in row:
        yield Example(chosen[:-1], chosen[-1:])
        return
    rejected = hh_messages(_text(row, "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise UnfitError("prompts differ", "chosen and rejected are not answers to one prompt")
    yield Example(chosen[:-1], chosen[-1:], rejected[-1:])


def hh_messages(text: str) -> Messages:
    """A transcript as messages.

    Raises:
        UnfitError: it does not start with Human or does not end with Assistant.
    """
    opening, *parts = _HH_TURN.split(text)
    if opening.strip() or not parts:
        raise UnfitError("odd start", f"found {(opening or text)[:40]!r} before the first Human turn")
    messages = tuple(
        Message(_HH_ROLES[speaker], said.strip()) for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    )
    if messages[0].role != "user":
        raise UnfitError("odd start", "the transcript starts with Assistant")
    if messages[-1].role != "assistant":
        raise UnfitError("odd end", "the transcript ends with Human")
    return messages


def trl(row: Mapping[str, Any]) -> Iterator[Example]:
    """Any of TRL's row types, standard or conversational; the prompt of a preference may be implicit.

    preference (prompt?, chosen, rejected), prompt-completion, unpaired preference (prompt, completion,
    label), prompt-only, language modelling (messages; conversations in ShareGPT's names too).
    """
    if "chosen" in row and "rejected" in row:
        prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
        if prompt is None:
            prompt, chosen, rejected = common_prompt(chosen, rejected)
        spoken = _messages(prompt, "user", "prompt")
        yield Example(spoken, _rest(spoken, chosen, "chosen"), _rest(spoken, rejected, "rejected"))
    elif "completion" in row:
        if row.get("label") is False:
            raise UnfitError("label false", "a completion that was not liked is no demonstration")
        spoken = _messages(row.get("prompt"), "user", "prompt")
        yield Example(spoken, _rest(spoken, row["completion"], "completion"))
    elif "messages" in row or "conversations" in row:
        spoken = _messages(row.get("messages", row.get("conversations")), "user", "messages")
        if spoken[-1].role != "assistant":
            raise UnfitError("odd end", "the dialogue does not end with assistant")
        yield Example(spoken[:-1], spoken[-1:])
    elif "prompt" in row:
        yield Example(_messages(row["prompt"], "user", "prompt"))
    elif "text" in row:
        raise UnfitError("plain text", "a text without roles is for pretraining, not for dialogues")
    else:
        raise UnfitError("unknown columns", ", ".join(map(str, row)) or "none")


def common_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The longest common beginning of two answers as their prompt, as ``trl.extract_prompt`` finds it.

    Texts are told apart at whole words only: of "It is blue." and "It is black." TRL makes the prompt "It is bl".

    Args:
        chosen: text or messages.
        rejected: the same.

    Returns:
        (prompt, rest of chosen, rest of rejected). Of texts, a space before the rest goes with the rest.
    """
    if type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)):
        raise UnfitError("wrong type", f"chosen is {type(chosen).__name__}, rejected is {type(rejected).__name__}")
    shorter = min(len(chosen), len(rejected))
    same = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    if same == len(chosen) == len(rejected):
        raise UnfitError("same answers", "chosen equals rejected")
    if isinstance(chosen, str):
        ends = [text[same : same + 1] for text in (chosen, rejected)]
        if not all(end == "" or end.isspace() for end in ends):
            while same and not chosen[same - 1].isspace():
                same -= 1
        if same and chosen[same - 1] == " ":
            same -= 1
    return chosen[:same], chosen[same:], rejected[same:]


def ultrafeedback(row: Mapping[str, Any]) -> Iterator[Example]:
    """A TRL preference with ``score_chosen`` and ``score_rejected``, beside it or in its ``metadata``."""
    scores = row if "score_chosen" in row else row.get("metadata")
    try:
        assert isinstance(scores, Mapping)
        gap = float(scores["score_chosen"]) - float(scores["score_rejected"])
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UnfitError("no scores", "expected numbers score_chosen and score_rejected") from error
    if not gap > 0:
        raise UnfitError("no preference", f"the chosen answer scores {gap:g} above the rejected one")
    for example in trl(row):
        yield Example(example.prompt, example.chosen, example.rejected, gap)


def dolly(row: Mapping[str, Any]) -> Iterator[Example]:
    """``{"instruction", "context"?, "response"}``; a row marked ``maybe_truncated`` is unfit."""
    if row.get("maybe_truncated"):
        raise UnfitError("truncated", "an answer cut off teaches to stop in mid-sentence")
    yield _instructed(row, _text(row, "instruction"), row.get("context"), _text(row, "response"))


def self_instruct(row: Mapping[str, Any]) -> Iterator[Example]:
    """``{"instruction", "instances": [{"input", "output"}, …]}``: one example an instance."""
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances:
        raise UnfitError("no instances", f"found {instances!r}")
    for instance in instances:
        if not isinstance(instance, Mapping):
            raise UnfitError("wrong type", f"an instance is {type(instance).__name__}, expected an object")
        yield _instructed(row, _text(row, "instruction"), instance.get("input"), _text(instance, "output"))


def instructions(row: Mapping[str, Any]) -> Iterator[Example]:
    """``{"inputs", "targets"}`` as in Flan, or ``{"instruction", "input"?, "output"}`` as in Alpaca."""
    if "inputs" in row:
        yield _instructed(row, _text(row, "inputs"), None, _text(row, "targets"))
    else:
        yield _instructed(row, _text(row, "instruction"), row.get("input"), _text(row, "output"))


def pandalm(row: Mapping[str, Any]) -> Iterator[Example]:
    """PandaLM's test set (arXiv 2306.05087): two responses, and of each ``annotatorN`` 0 for a tie, 1 or 2 the better.

    Chosen is the response with more votes. A row where neither has is unfit: those left are the clearer ones.
    """
    labels = [label for name, label in sorted(row.items()) if name.startswith("annotator")]
    if not labels or any(label not in (0, 1, 2) for label in labels):
        raise UnfitError("unknown labels", f"annotators: found {labels!r}, expected 0 (tie), 1 or 2 of each")
    best = 1 if labels.count(1) > labels.count(2) else 2
    if labels.count(1) == labels.count(2):
        raise UnfitError("no preference", f"neither response has more votes: {labels}")
    said: dict[int, Vote] = {0: "tie", best: "chosen", 3 - best: "rejected"}
    won = _instructed(row, _text(row, "instruction"), row.get("input"), _text(row, f"response{best}"))
    lost = Message("assistant", _text(row, f"response{3 - best}").strip())
    yield Example(won.prompt, won.chosen, (lost,), votes=tuple(said[label] for label in labels))


PARSERS: Mapping[Format, Callable[[Mapping[str, Any]], Iterator[Example]]] = {
    "hh": hh,
    "trl": trl,
    "ultrafeedback": ultrafeedback,
    "dolly": dolly,
    "self_instruct": self_instruct,
    "instructions": instructions,
    "pandalm": pandalm,
}


def fit_for_chat(example: Example, preference: bool) -> None:
    """Refuse an example that the chat format cannot say, or compared answers that are the same.

    Raises:
        UnfitError: with the reason.
    """
    _check(example.prompt, "user")
    if example.chosen:
        _check((*example.prompt, *example.chosen), "assistant")
    for answer in example.answers:
        _check((*example.prompt, *answer), "assistant")
    if preference:
        _check((*example.prompt, *example.rejected), "assistant")
        if example.chosen == example.rejected:
            raise UnfitError("same answers", "chosen equals rejected")


def rate(gap: float | None, thresholds: Mapping[Rating, float]) -> Rating:
    """The strongest rating whose threshold the gap reaches; ``negligibly`` below all, or without scores."""
    if gap is not None:
        for rating, least in sorted(thresholds.items(), key=lambda item: -item[1]):
            if gap >= least:
                return rating
    return "negligibly"


def _check(messages: Messages, ends: Literal["user", "assistant"]) -> None:
    try:
        check_messages(messages, "row", ends)
    except TemplateError as error:
        text = str(error)
        reason = "tag" if "found the tag" in text else "empty message" if "found an empty" in text else "roles"
        raise UnfitError(reason, text) from error


def _instructed(row: Mapping[str, Any], instruction: str, context: Any, answer: str) -> Example:
    given = context.strip() if isinstance(context, str) else ""
    asked = f"{instruction.strip()}\n\n{given}" if given else instruction.strip()
    return Example((Message("user", asked),), (Message("assistant", answer.strip()),))


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UnfitError("wrong type", f"{key}: found {type(value).__name__}, expected text")
    return value


def _messages(value: Any, role: Role, key: str) -> Messages:
    """Plain text as one message of ``role``; messages of ChatML or ShareGPT as they are."""
    if isinstance(value, str):
        if _HH_TURN.match(value):
            raise UnfitError("transcript", f"{key}: found turns of Human and Assistant in a text; expected format: hh")
        return (Message(role, value.strip()),)
    if not isinstance(value, Sequence) or not value:
        raise UnfitError("wrong type", f"{key}: found {type(value).__name__}, expected text or messages")
    return tuple(_message(item, key) for item in value)


def _message(item: Any, key: str) -> Message:
    if not isinstance(item, Mapping):
        raise UnfitError("wrong type", f"{key}: found {type(item).__name__}, expected a message")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if role not in _CHATML:
        raise UnfitError("roles", f"{key}: found role {role!r}, expected system, user or assistant")
    if not isinstance(content, str):
        raise UnfitError("wrong type", f"{key}: found content {type(content).__name__}, expected text")
    return Message(_CHATML[role], content.strip())


def _rest(prompt: Messages, value: Any, key: str) -> Messages:
    """An answer's messages; some sets repeat the prompt in front of them."""
    answer = _messages(value, "assistant", key)
    return answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer
