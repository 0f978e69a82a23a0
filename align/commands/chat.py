"""`align chat`: a conversation in the terminal. Ctrl-C stops an answer, Ctrl-D ends the conversation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import AlignError
from align.model.config import read_config
from align.records import Message
from align.rollout.backend import SamplingConfig

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.model.llama import Llama

HELP = "Ctrl-C stops the answer, Ctrl-D ends the conversation, /reset starts a new one."


def chat(folder: Path, system: str | None, sampling: SamplingConfig, seed: int) -> None:
    """Talk to a policy until the end of the input.

    Args:
        folder: the policy.
        system: a system message that holds for the whole conversation.
        sampling: how the answers are drawn.
        seed: with the number of the turn and the position, the address of every draw.

    Raises:
        AlignError: the policy cannot be loaded, or the system message is refused.
    """
    import contextlib

    with contextlib.suppress(ImportError):  # line editing and history, where the system has it
        import readline  # noqa: F401

    from align.data.template import check_messages
    from align.data.tokenizer import Tokenizer

    start = [Message("system", system)] if system else []
    check_messages((*start, Message("user", "?")), "system message", ends="user")
    read_config(folder)  # a wrong folder is told before torch has been waited for
    tokenizer = Tokenizer(folder / "tokenizer.model")
    from align.model.weights import load_policy

    model = load_policy(folder).eval()
    print(HELP)
    messages, turn = list(start), 0
    while (said := _read()) is not None:
        if said == "/reset":
            messages = list(start)
        elif said:
            messages.append(Message("user", said))
            answer = _answer(model, tokenizer, messages, sampling, seed, turn)
            turn += 1
            if answer:
                messages.append(Message("assistant", answer))
            else:  # nothing to go on from: the message is forgotten
                messages.pop()


def _read() -> str | None:
    while True:
        try:
            return input("> ").strip()
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return None


def _answer(
    model: Llama,
    tokenizer: Tokenizer,
    messages: list[Message],
    sampling: SamplingConfig,
    seed: int,
    turn: int,
) -> str:
    """Print an answer as it is drawn; what there is of it when it ends or is stopped."""
    from align.data.template import encode_prompt

    drawn: list[int] = []
    shown = ""
    try:
        prompt = encode_prompt(tokenizer, tuple(messages), "message")
        for token in stream(model, prompt, tokenizer.eos, sampling, seed, turn):
            drawn.append(token)
            text = tokenizer.decode(drawn)
            if not text.endswith("\ufffd"):  # a character whose bytes are not all there yet
                print(text[len(shown) :], end="", flush=True)
                shown = text
    except KeyboardInterrupt:
        print(" …", end="")
    except AlignError as error:
        print(f"{error}; {HELP}", end="")
    print()
    return shown.strip()


def stream(model: Llama, prompt: list[int], eos: int, sampling: SamplingConfig, seed: int, turn: int) -> Iterator[int]:
    """The tokens of one answer as they are drawn, EOS left out.

    Args:
        model: the policy.
        prompt: token ids.
        eos: ends the answer.
        sampling: how tokens are drawn; the answer also ends where the context does.
        seed: of the conversation.
        turn: number of the answer within it.

    Raises:
        DataError: the prompt fills the context.
    """
    import torch

    from align.model.llama import KVCache
    from align.model.randomness import key, uniforms
    from align.records import Request
    from align.rollout.backend import check_requests, room
    from align.rollout.draw import draw

    request = Request(turn, tuple(prompt), seed=seed)
    context = model.config.max_seq_len
    check_requests([request], context)
    length = room(request, sampling, context)
    parameter = next(model.parameters())
    cache = KVCache(model.config, 1, len(prompt) + length, parameter.dtype, parameter.device)
    address = torch.tensor([key(seed, 0, turn, 0)], device=parameter.device)
    tokens, first = torch.tensor([prompt], device=parameter.device), 0
    for end in range(len(prompt), len(prompt) + length):
        with torch.inference_mode():
            positions = torch.arange(first, end, device=parameter.device)[None]
            logits = model(tokens, positions, cache=cache)[:, -1]
            at = torch.tensor([end], device=parameter.device)
            token, _ = draw(logits, uniforms(address, at), sampling)
        if int(token) == eos:
            return
        yield int(token)
        tokens, first = token[:, None], end
