"""A policy is asked: the log-probabilities of options, or answers of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from align.errors import DataError
from align.rollout.backend import SamplingConfig
from align.stages.exam.recipe import Recipe

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.exams.question import Form, Normalise, Question
    from align.model.llama import Llama
    from align.records import Messages

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who sits the exams."""

    policy: Llama
    tokenizer: Tokenizer
    context: int  # tokens
    journal: Path  # answers are kept beside it, so that a killed exam goes on


def choose(
    candidate: Candidate, questions: Sequence[Question], form: Form, normalise: Normalise, recipe: Recipe
) -> tuple[list[Row], dict[str, Any]]:
    """The log-probabilities of every question's options.

    Returns:
        Rows: what the question tells, ``options``, ``tokens`` and ``logprobs`` of each, nats, and ``scores``, which are
        those normalised; and counts.

    Raises:
        DataError: a question with an option is longer than the context, where that is an error.
    """
    from align.exams.question import encode, normalised
    from align.rollout.choices import continuation_logprobs

    encoded = [(question, encode(candidate.tokenizer, question, form)) for question in questions]
    kept = fitting([(pair, pair[1].length, pair[0].where) for pair in encoded], candidate.context, recipe)
    asked = [(one.context, one.options) for _, one in kept]
    rows = []
    for (question, one), logprobs in zip(
        kept, continuation_logprobs(candidate.policy, asked, recipe.batch_tokens), strict=True
    ):
        scores = normalised(logprobs, one, question.options, normalise)
        told = {"options": list(question.options), "tokens": [len(ids) for ids in one.options]}
        rows.append({"id": question.id, **question.meta, **told, "logprobs": logprobs, "scores": scores})
    return rows, {"form": form, "normalise": normalise, **counted(len(questions), len(kept))}


def answer(
    candidate: Candidate,
    asked: Sequence[tuple[T, Messages | str, str]],
    sampling: SamplingConfig,
    samples: int,
    stops: Sequence[str],
    exam: str,
    recipe: Recipe,
) -> tuple[list[tuple[T, list[Row]]], dict[str, Any]]:
    """Answers to every problem, from the rollout engine.

    Args:
        candidate: who answers.
        asked: (problem, what is asked, file:line).
        sampling: how; ``stops`` are added.
        samples: answers a problem.
        stops: texts behind which nothing counts.
        exam: names the journal.
        recipe: for seed, slots and what becomes of a long prompt.

    Returns:
        Each problem with its answers, ``answer``, ``finish``, ``tokens``; and counts.

    Raises:
        DataError: a prompt leaves no room for an answer, where that is an error.
    """
    from align.data.prompts import requests
    from align.exams.answers import decode_answer, encode_asked, stop_tokens
    from align.rollout import journal
    from align.rollout.local import LocalEngine

    tokenizer = candidate.tokenizer
    encoded = [(*one, encode_asked(tokenizer, one[1], one[2])) for one in asked]
    room = candidate.context - sampling.max_new_tokens
    kept = fitting([(one, len(one[3]), one[2]) for one in encoded], room, recipe)
    sampling = dataclasses.replace(sampling, stop=stop_tokens(tokenizer, stops))
    engine = LocalEngine(candidate.policy, tokenizer.eos, recipe.slots, candidate.context, candidate.journal.name)
    wanted = requests([ids for *_, ids in kept], samples=samples, seed=recipe.seed)
    path = candidate.journal.with_name(f"{candidate.journal.name}-{exam}.jsonl")
    said: list[list[Row]] = [[] for _ in kept]
    for rollout in journal.generate(engine, wanted, sampling, path):
        _, given, _, ids = kept[rollout.prompt]
        text = decode_answer(tokenizer, given, ids, rollout.tokens)
        said[rollout.prompt].append({"answer": text, "finish": rollout.finish, "tokens": len(rollout.tokens)})
    return [(one[0], rows) for one, rows in zip(kept, said, strict=True)], counted(len(asked), len(kept))


def fitting(sized: Sequence[tuple[T, int, str]], room: int, recipe: Recipe) -> list[T]:
    """What has no more tokens than there is room for.

    Args:
        sized: (anything, its tokens, file:line).
        room: tokens.
        recipe: says whether the others are skipped.

    Raises:
        DataError: one that has more, where that is an error; nothing is left.
    """
    for _, tokens, where in sized:
        if tokens > room and recipe.overlong == "error":
            raise DataError(f"{where}: found {tokens} tokens, expected at most {room}; overlong: skip leaves such out")
    kept = [one for one, tokens, _ in sized if tokens <= room]
    if not kept:
        found = f"{len(sized)} questions, all longer than {room} tokens" if sized else "no questions"
        raise DataError(f"{sized[0][2].rpartition(':')[0] if sized else 'exam'}: found {found}, expected at least one")
    return kept


def counted(questions: int, kept: int) -> dict[str, int]:
    """How many questions were answered, and how many the context had no room for."""
    return {"questions": kept, "skipped": questions - kept}
