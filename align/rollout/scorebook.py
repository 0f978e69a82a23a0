"""A reward model's scores, kept: no answer is read twice, in this job, in its next start or in a later round."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from align.errors import RolloutError
from align.files import append_line, whole_lines

AT_ONCE = 2048  # rows between two writes


class Reader(Protocol):
    """What a score book needs of a reward model or of a pool of them."""

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Logits, one a row."""


class ScoreBook:
    """A reward model's scores by the tokens they are of, written down as they come: no answer is read twice.

    Rows that are alike are read once, those that another round's artifact tells need no reading, and a killed job
    goes on from the file. What is read together is fixed by the rows alone and stands in the file as one line, so
    that the scores are the same to the last bit however often the job was killed.
    """

    def __init__(self, path: Path) -> None:
        """Open the book of one reward model, in one work folder.

        Args:
            path: its file, made where missing.
        """
        self.path = path
        self.fresh = 0  # rows that no earlier round had scored, the same however often the job was killed
        self._scores: dict[bytes, float] = {}
        for key, score in _lines(path):
            self._scores.setdefault(key, score)
        self._told: dict[bytes, float] = {}

    def know(self, rows: Iterable[Sequence[int]], scores: Iterable[float]) -> None:
        """Take scores that the same model gave before."""
        self._told |= {_key(row): score for row, score in zip(rows, scores, strict=True)}

    def score(self, rows: Sequence[Sequence[int]], scorers: AbstractContextManager[Reader]) -> list[float]:
        """The score of each row.

        Args:
            rows: encoded prompt and answer, joined.
            scorers: the model; entered only where there is something to read.

        Returns:
            Logits, in the order of the rows.

        Raises:
            RolloutError: the model gave a score that is not finite.
        """
        keys = [_key(row) for row in rows]
        wanted = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._told}
        self.fresh += len(wanted)
        # the pieces are those of all that was to be read, so that a second start reads what is left in the same ones
        todo = list(wanted)
        pieces = [todo[start : start + AT_ONCE] for start in range(0, len(todo), AT_ONCE)]
        left = [piece for piece in pieces if any(key not in self._scores for key in piece)]
        if left:
            with scorers as scorer:
                for piece in left:
                    self._write(piece, scorer.score([wanted[key] for key in piece]))
        return [self._told[key] if key in self._told else self._scores[key] for key in keys]

    def _write(self, keys: Sequence[bytes], scores: Sequence[float]) -> None:
        if bad := sum(not math.isfinite(score) for score in scores):
            raise RolloutError(f"{self.path.stem}: {bad} of {len(scores)} scores are not finite; is the model sound?")
        append_line(self.path, [[key.hex() for key in keys], list(scores)])
        # the first reading stays: what it gave may be written elsewhere already
        self._scores = dict(zip(keys, scores, strict=True)) | self._scores


def _key(row: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("q", row).tobytes(), digest_size=16).digest()


def _lines(path: Path) -> Iterator[tuple[bytes, float]]:
    """What is written there."""
    for line in whole_lines(path):
        keys, scores = json.loads(line)
        yield from zip(map(bytes.fromhex, keys), scores, strict=True)
