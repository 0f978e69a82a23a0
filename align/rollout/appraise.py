"""Rollouts with the scores of both reward models; what is known of an answer is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

from align.artifacts import folder_digest, sha256_file
from align.data.prompts import encode_prompts
from align.data.schema import messages_of
from align.data.tokenizer import Tokenizer
from align.errors import ArtifactError, DataError
from align.model.config import read_config
from align.records import Messages, Prompt
from align.rollout.scorebook import Reader, ScoreBook

Row: TypeAlias = dict[str, Any]  # of data_schemas/rollout.json


class Judges:
    """The helpfulness and the safety model of a round, and all that they have scored."""

    def __init__(self, helpful: Path, safety: Path, threshold: float, work: Path) -> None:
        """Read digests and the tokenizer; weights are loaded only when there is something to score.

        Args:
            helpful: a reward model artifact.
            safety: another, or the same.
            threshold: a probability: below it the safety score decides.
            work: folder of the books of scores.

        Raises:
            ArtifactError: the two have different tokenizers.
        """
        self.folders = {"helpful": helpful, "safety": safety}
        self.digests = {name: folder_digest(folder) for name, folder in self.folders.items()}
        self.tokenizer = Tokenizer(helpful / "tokenizer.model")
        self.tokenizer_sha256 = sha256_file(helpful / "tokenizer.model")
        self.context = min(read_config(folder).max_seq_len for folder in self.folders.values())
        self.threshold = threshold
        self.check_tokenizer(safety)
        self.books = {digest: ScoreBook(work / f"scores-{digest[:16]}.jsonl") for digest in self.digests.values()}

    def check_tokenizer(self, folder: Path) -> None:
        """Refuse a model that counts in other tokens.

        Raises:
            ArtifactError: its tokenizer is another one.
        """
        if sha256_file(folder / "tokenizer.model") != self.tokenizer_sha256:
            raise ArtifactError(
                f"{folder}: found another tokenizer than that of {self.folders['helpful']}, expected the same; a model "
                "with its own takes part through a rejection artifact of its own, as sampler or history"
            )

    def score(self, rows: Sequence[Row], scorer: Callable[[str], AbstractContextManager[Reader]]) -> list[Row]:
        """The rows with their scores: by each model, and the one that counts as ``combined``.

        Args:
            rows: of the schema; what is in their ``scores`` came from these very models and is not read again.
            scorer: opens the model of a name; called for what has to be read, and opened only then.

        Raises:
            DataError: a prompt with its answer is longer than the models can read.
        """
        from align.rollout.judge import join

        whole = self._joined(rows)
        found: dict[str, list[float]] = {}
        for digest, book in self.books.items():
            names = [name for name in self.digests if self.digests[name] == digest]  # both, where they are one model
            known = [number for number, row in enumerate(rows) if row["scores"].get(names[0]) is not None]
            book.know([whole[number] for number in known], [rows[number]["scores"][names[0]] for number in known])
            scores = book.score(whole, scorer(names[0]))
            found |= dict.fromkeys(names, scores)
        flags = [row.get("kind") == "safety" for row in rows]
        joined = join(found["helpful"], found["safety"], flags, self.threshold).combined.tolist() if rows else []
        return [
            row | {"scores": {"helpful": helpful, "safety": safety, "combined": combined}}
            for row, helpful, safety, combined in zip(rows, found["helpful"], found["safety"], joined, strict=True)
        ]

    @property
    def fresh(self) -> dict[str, int]:
        """How many answers each model had to read."""
        return {name: self.books[digest].fresh for name, digest in self.digests.items()}

    def _joined(self, rows: Sequence[Row]) -> list[list[int]]:
        messages = [messages_of(row["prompt"]) for row in rows]
        asked: dict[Messages, list[int]] = {}
        prompts = [Prompt(id=row["prompt_id"], messages=m) for row, m in zip(rows, messages, strict=True)]
        different = list({prompt.messages: prompt for prompt in prompts}.values())
        for prompt, tokens in zip(different, encode_prompts(self.tokenizer, different), strict=True):
            asked[prompt.messages] = tokens
        whole = [[*asked[m], *row["tokens"]] for m, row in zip(messages, rows, strict=True)]
        for row, tokens in zip(rows, whole, strict=True):
            if len(tokens) > self.context:
                raise DataError(
                    f"prompt {row['prompt_id']} and the answer of {row['policy']}: found {len(tokens)} tokens, "
                    f"expected at most the reward models' {self.context}"
                )
        return whole
