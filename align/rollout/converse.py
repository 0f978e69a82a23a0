"""Whole dialogues, turn by turn: every dialogue's next answer is sampled in one batch, then the next turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from align.data.template import encode_prompt, sayable
from align.data.tokenizer import Tokenizer
from align.records import Messages, Request
from align.rollout.backend import SamplingConfig
from align.rollout.journal import Sampler, generate


def converse(
    sampler: Sampler,
    tokenizer: Tokenizer,
    turns: Sequence[int],
    ask: Callable[[int, list[str]], Messages],
    sampling: SamplingConfig,
    *,
    seed: int,
    journal: Path,
    context: int,
    whole: bool = False,
) -> list[list[str]]:
    """Answer every turn of every dialogue.

    Args:
        sampler: a pool or an engine.
        tokenizer: of its policy.
        turns: number of user turns of each dialogue.
        ask: (dialogue, answers so far) -> the messages to be answered next.
        sampling: how.
        seed: of the answers; turn t of dialogue d is addressed as step t, prompt d.
        journal: a file name; each turn's answers are kept beside it, so that a killed job goes on.
        context: tokens that the policy can see; a dialogue that would outgrow it stops there.
        whole: a dialogue stops before an answer that ``max_new_tokens`` cut; otherwise it goes on from it.

    Returns:
        The answers of each dialogue; fewer than its turns where the context was too short or an
        answer was empty, held a tag of the chat format or, with ``whole``, was cut.
    """
    answers: list[list[str]] = [[] for _ in turns]
    for turn in range(max(turns, default=0)):
        requests = []
        for dialog, count in enumerate(turns):
            if turn < count and len(answers[dialog]) == turn:
                prompt = tuple(encode_prompt(tokenizer, ask(dialog, answers[dialog])))
                if len(prompt) + sampling.max_new_tokens <= context:
                    requests.append(Request(dialog, prompt, sample=0, seed=seed, step=turn))
        path = journal.with_name(f"{journal.name}-turn-{turn}.jsonl")
        for rollout in generate(sampler, requests, sampling, path):
            text = tokenizer.decode(rollout.tokens).strip()
            cut = whole and rollout.finish == "length"
            if sayable(text) and not cut:  # otherwise the dialogue ends here: the format cannot go on from it
                answers[rollout.prompt].append(text)
    return answers
