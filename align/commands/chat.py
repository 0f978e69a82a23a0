"""`align chat`: a conversation in the terminal. Ctrl-C stops an answer, Ctrl-D ends the conversation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import AlignError, RecipeError, nearest
from align.model.config import read_config
from align.records import Message
from align.rollout.backend import SamplingConfig

if TYPE_CHECKING:
    from align.model.llama import Llama
    from align.rollout.reward_model import RewardModel

HELP = "Ctrl-C stops the answer, Ctrl-D ends the conversation, /help lists the commands."
AGAIN = "(Ctrl-C again, or Ctrl-D, ends the conversation)"
COMMANDS = {
    "/help": "this list",
    "/reset": "a new dialogue under the same system message",
    "/system TEXT": "a new dialogue under this system message, or none",
    "/policy FOLDER": "another policy goes on with the dialogue; without a folder, its name",
    "/score FOLDER": "a reward model scores every answer from now on; without a folder, none",
    "/save FILE": "every dialogue so far, a row each, as `align` reads them",
    "/quit": "leave, as Ctrl-D does",
}


@dataclass(slots=True)
class Dialogue:
    """What was said, and what is known of each answer."""

    messages: list[Message]
    answers: list[dict[str, Any]] = field(default_factory=list)  # policy, seed, scores, stopped


class Chat:
    """A conversation held open: the policy, the reward models, the dialogues so far.

    Args:
        folder: the policy.
        system: a system message that holds for a whole dialogue, or None.
        sampling: how the answers are drawn.
        seed: with the number of the answer and the position, the address of every draw.
        scorers: folders of reward models.

    Raises:
        AlignError: a model cannot be loaded, or the system message is refused.
    """

    def __init__(
        self, folder: Path, system: str | None, sampling: SamplingConfig, seed: int, scorers: Sequence[Path] = ()
    ) -> None:
        self.sampling, self.seed = sampling, seed
        self.dialogues: list[Dialogue] = []
        self.system(system or "")
        for path in (folder, *scorers):
            read_config(path)  # a wrong folder is told before torch has been waited for
        self.scorers: dict[str, RewardModel] = {}
        self.policy(folder)
        for path in scorers:
            self.score(path)
        self._turn = 0
        self._saved: set[Path] = set()

    def system(self, told: str) -> None:
        """Begin a dialogue under this system message, none where it is empty."""
        from align.data.template import check_messages

        start = [Message("system", told)] if told else []
        check_messages((*start, Message("user", "?")), "system message", ends="user")
        self._start = start
        self.reset()

    def reset(self) -> None:
        """Begin a dialogue under the same system message."""
        self.dialogues.append(Dialogue(list(self._start)))

    def policy(self, folder: Path) -> None:
        """Go on with another policy."""
        from align.data.tokenizer import Tokenizer

        read_config(folder)
        tokenizer = Tokenizer(folder / "tokenizer.model")
        from align.model.weights import load_policy

        # both or neither: a policy speaks its own tokenizer's tokens
        self.model, self.tokenizer, self.folder = load_policy(folder).eval(), tokenizer, folder

    def score(self, folder: Path) -> None:
        """Score every answer from now on with this reward model too."""
        from align.rollout.reward_model import load_reward_model

        self.scorers[str(folder)] = load_reward_model(folder)

    def say(self, said: str, show: Callable[[str], None]) -> None:
        """One turn: show the answer as it is drawn, then its scores. A message that got no answer is forgotten."""
        from align.data.template import encode_prompt, sayable

        dialogue = self.dialogues[-1]
        asked = [*dialogue.messages, Message("user", said)]
        prompt = encode_prompt(self.tokenizer, tuple(asked), "message")
        drawn, shown, stopped = list[int](), "", False
        try:
            for token in stream(self.model, prompt, self.tokenizer.eos, self.sampling, self.seed, self._turn):
                drawn.append(token)
                text = self.tokenizer.decode(drawn)
                if not text.endswith("\ufffd"):  # a character whose bytes are not all there yet
                    piece, shown = text[len(shown) :], text  # what may be seen is kept, whenever Ctrl-C comes
                    show(printable(piece))
        except KeyboardInterrupt:
            stopped = True
            show(" …")
        show("\n")
        self._turn += 1
        answer = shown.strip()
        if not sayable(answer):
            if answer:
                show("(the answer holds a tag of the chat format: message and answer are forgotten)\n")
            return
        dialogue.messages = [*asked, Message("assistant", answer)]
        known: dict[str, Any] = {"policy": str(self.folder), "seed": self.seed, "turn": self._turn - 1}
        dialogue.answers.append(known | ({"stopped": True} if stopped else {}))
        if self.scorers:
            scores = {name: model.score([dialogue.messages])[0] for name, model in self.scorers.items()}
            dialogue.answers[-1]["scores"] = scores
            show(f"[{', '.join(f'{Path(name).name} {value:+.2f}' for name, value in scores.items())}]\n")

    def save(self, path: Path) -> int:
        """Write every dialogue with an answer, atomically; the number of rows.

        Raises:
            RecipeError: a file that this conversation did not write, or nothing to write.
        """
        from align.files import write_jsonl

        rows = [
            {
                "messages": [{"role": m.role, "content": m.content} for m in dialogue.messages],
                "source": "align chat",
                "meta": {
                    "temperature": self.sampling.temperature,
                    "top_p": self.sampling.top_p,
                    "answers": dialogue.answers,
                },
            }
            for dialogue in self.dialogues
            if dialogue.answers
        ]
        if not rows:
            raise RecipeError(f"{path}: nothing has been answered yet, so there is no dialogue to save")
        if path.exists() and path.resolve() not in self._saved:
            raise RecipeError(f"{path}: is there already and is not of this conversation; expected a new file")
        try:
            write_jsonl(path, rows)
        except OSError as error:
            raise RecipeError(f"{path}: cannot be written: {error.strerror}") from error
        self._saved.add(path.resolve())
        return len(rows)


def chat(folder: Path, system: str | None, sampling: SamplingConfig, seed: int, scorers: Sequence[Path] = ()) -> None:
    """Talk to a policy until the end of the input; see :class:`Chat`."""
    with contextlib.suppress(ImportError):  # line editing and history, where the system has it
        import readline  # noqa: F401

    held = Chat(folder, system, sampling, seed, scorers)
    print(HELP)
    while (said := _read()) is not None and said != "/quit":
        try:
            if said.startswith("/"):
                print(_command(held, said))
            elif said:
                held.say(said, _show)
        except KeyboardInterrupt:  # while something was loaded or scored
            print(" stopped")
        except AlignError as error:
            print(f"{error}; {HELP}")


def _command(held: Chat, said: str) -> str:
    name, _, rest = said.partition(" ")
    rest = rest.strip()
    match name:
        case "/reset":
            held.reset()
            return "a new dialogue"
        case "/system":
            held.system(rest)
            return "a new dialogue" + (" under this system message" if rest else " without a system message")
        case "/policy":
            if rest:
                held.policy(Path(rest).expanduser())
            return f"policy {held.folder}"
        case "/score":
            if rest:
                held.score(Path(rest).expanduser())
            else:
                held.scorers.clear()
            return f"scored by {', '.join(held.scorers) or 'nobody'}"
        case "/save":
            if not rest:
                raise RecipeError("/save: expected a file")
            rows = held.save(Path(rest).expanduser())
            return f"{rest}: {rows} dialogue{'s' if rows > 1 else ''}"
        case "/help":
            return "\n".join(f"{command:<16} {what}" for command, what in COMMANDS.items())
        case _:
            known = [command.split()[0] for command in COMMANDS]
            raise RecipeError(f"{name}: no such command{nearest(name, known)}; there are {', '.join(known)}")


def printable(text: str) -> str:
    """Text without control characters, with which a terminal could be steered; line ends and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160))


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _read() -> str | None:
    """A line; None at the end of the input, or where Ctrl-C is struck twice."""
    struck = False
    while True:
        try:
            return input("> ").strip()
        except KeyboardInterrupt:
            print()
            if struck:
                return None
            struck = True
            print(AGAIN)
        except EOFError:
            print()
            return None


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
