"""Public data sets -> this library's JSONL, split by prompt into train and held-out files."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from align.config import config, to_plain
from align.data.files import read_rows
from align.data.finegrained import finegrained
from align.data.formats import PARSERS, Example, Format, UnfitError, fit_for_chat, rate, trl
from align.data.preference import held_out
from align.data.schema import messages_json, to_json
from align.data.xstest import xstest
from align.errors import DataError
from align.records import RATINGS, Dialog, Kind, Preference, Prompt, Ranking, Rating

Target: TypeAlias = Literal["dialogues", "preferences", "rankings", "prompts"]
Share: TypeAlias = Annotated[float, pydantic.Field(ge=0, lt=1)]
FileName: TypeAlias = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
DEMONSTRATIONS: tuple[Format, ...] = ("dolly", "self_instruct", "instructions")
RANKED: tuple[Format, ...] = ("finegrained",)
ASKED: tuple[Format, ...] = ("xstest",)  # questions alone


@config
class Job:
    """One file or hub set to convert. Jobs of the same ``out`` and target are written one after another."""

    format: Format
    path: str  # .jsonl(.gz), .csv, .parquet or hf:owner/name[:split]
    to: Target  # dialogues takes the chosen answers, prompts leaves the answers out
    out: FileName  # out.jsonl, and out_test.jsonl for what is held out
    kind: Kind = "helpful"
    source: str = ""  # told in every row; the file's name where empty
    take: Annotated[int, pydantic.Field(ge=1)] | None = None  # the first so many rows of the file
    # score gap from which a rating holds; needed by ultrafeedback, whose scores are 1 to 10
    ratings: dict[Rating, float] = pydantic.Field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.to != "prompts" and self.format in ASKED:
            raise ValueError(f"{self.format} has questions and no answers; expected to: prompts")
        if self.to in ("preferences", "rankings") and self.format in DEMONSTRATIONS:
            raise ValueError(f"{self.format} has one answer a prompt; expected to: dialogues or prompts")
        if self.to not in ("rankings", "prompts") and self.format in RANKED:
            raise ValueError(f"{self.format} has several answers a prompt; expected to: rankings or prompts")
        if self.to == "rankings" and self.format not in RANKED:
            raise ValueError(f"{self.format} has no rankings; expected to: preferences, dialogues or prompts")
        self._check_ratings()

    def _check_ratings(self) -> None:
        scored = self.format == "ultrafeedback" and self.to == "preferences"
        if scored and not self.ratings:
            raise ValueError("ultrafeedback needs ratings, e.g. {significantly: 3, better: 2, slightly: 1}")
        if self.ratings and not scored:
            raise ValueError(f"ratings: {self.format} to {self.to} has no scores that they could rate")
        least = [self.ratings[rating] for rating in RATINGS if rating in self.ratings]
        if not all(map(math.isfinite, least)) or sorted(set(least), reverse=True) != least:
            raise ValueError(
                f"ratings: found {self.ratings}, expected finite gaps, a stronger rating from a larger one"
            )


@config
class Recipe:
    """Which files become which. The split is of prompts: what one job holds out, every job holds out."""

    stage: Literal["convert"]
    seed: int = 0  # of the split
    held_out: Share = 0.1  # share of prompts
    jobs: Annotated[list[Job], pydantic.Field(min_length=1)]

    def __post_init__(self) -> None:
        targets: dict[str, Target] = {}
        for job in self.jobs:
            if targets.setdefault(job.out, job.to) != job.to:
                raise ValueError(f"out {job.out!r} is written as {targets[job.out]} and as {job.to}")
            if job.out.endswith("_test") and job.out.removesuffix("_test") in {other.out for other in self.jobs}:
                raise ValueError(f"out {job.out!r} is the held-out file of another job")


ConvertRecipe = Recipe


@dataclass(slots=True)
class Converted:
    """What became of one or more files."""

    train: list[dict[str, Any]] = field(default_factory=list)
    test: list[dict[str, Any]] = field(default_factory=list)
    aside: list[dict[str, Any]] = field(default_factory=list)  # {path, line, reason, error, row}
    rows: int = 0

    def counts(self) -> dict[str, Any]:
        """Rows read, written and set aside by reason."""
        reasons = Counter(bad["reason"] for bad in self.aside)
        return {
            "read": self.rows,
            "train": len(self.train),
            "test": len(self.test),
            "set_aside": len(self.aside),
            "reasons": dict(sorted(reasons.items())),
        }


def convert(job: Job, share: float = 0.0, salt: str = "", into: Converted | None = None) -> Converted:
    """Convert one file.

    Args:
        job: what, and to what.
        share: of prompts held out.
        salt: of the split.
        into: what earlier jobs of the same file gave, to be added to.

    Returns:
        Rows of this library's schemas; what cannot be converted is set aside with its reason, never dropped.

    Raises:
        DataError: no such file.
    """
    result = into if into is not None else Converted()
    seen = {row["id"] for row in (*result.train, *result.test)} if job.to == "prompts" else set()
    for number, (place, row) in enumerate(read_rows(job.path)):
        if job.take is not None and number >= job.take:
            break
        result.rows += 1
        try:
            for example in _examples(job, row):
                made = _record(job, example)
                if job.to == "prompts":
                    if made["id"] in seen:
                        raise UnfitError("duplicate prompt", made["id"])
                    seen.add(made["id"])
                (result.test if held_out(example.prompt, share, salt) else result.train).append(made)
        except DataError as error:
            reason = error.reason if isinstance(error, UnfitError) else "not JSON"
            raw = place.raw if isinstance(row, DataError) else row
            bad = {
                "path": str(job.path),
                "line": place.line,
                "reason": reason,
                "error": str(error),
                "row": raw,
            }
            result.aside.append(bad)
    return result


def run(recipe: Recipe, out: Path) -> None:
    """Convert every job's file and publish the folder of JSONL at ``out``.

    Files: ``<out>.jsonl``, ``<out>_test.jsonl`` where something is held out, ``<out>.aside.jsonl`` with the
    rows that could not be converted. The counts are the manifest's metrics.

    Raises:
        DataError: no such file, a file of which nothing can be used, or a split with an empty side.
    """
    from align.artifacts import building, publish, write_jsonl

    made: dict[str, Converted] = {}
    for job in recipe.jobs:
        made[job.out] = convert(job, recipe.held_out, str(recipe.seed), made.get(job.out))
    for name, converted in made.items():
        if not converted.train and not converted.test:
            raise DataError(f"{name}: nothing could be converted: {json.dumps(converted.counts()['reasons'])}")
        if recipe.held_out and not (converted.train and converted.test):
            raise DataError(
                f"{name}: held_out {recipe.held_out:g} leaves {len(converted.train)} rows to train on and "
                f"{len(converted.test)} held out, expected some of both: give more rows, another share or seed"
            )
    with building(out) as folder:
        for name, converted in made.items():
            write_jsonl(folder / f"{name}.jsonl", converted.train)
            if recipe.held_out:
                write_jsonl(folder / f"{name}_test.jsonl", converted.test)
            if converted.aside:
                write_jsonl(folder / f"{name}.aside.jsonl", converted.aside)
        publish(
            folder,
            out,
            stage="convert",
            name=out.name,
            recipe=to_plain(recipe),
            seed=recipe.seed,
            inputs=[Path(path) for path in dict.fromkeys(job.path for job in recipe.jobs)],
            metrics={name: converted.counts() for name, converted in made.items()},
        )


def _examples(job: Job, row: Any) -> Iterator[Example]:
    if isinstance(row, DataError):
        raise row
    if not isinstance(row, dict):
        raise UnfitError("wrong type", f"found {type(row).__name__}, expected an object")
    pair = job.to == "preferences"
    parsers = {**PARSERS, "finegrained": finegrained, "xstest": xstest}
    parse = trl if job.format == "ultrafeedback" and not pair else parsers[job.format]
    if job.format == "hh" and not pair:  # the losing answer's faults do not matter
        row = {key: value for key, value in row.items() if key != "rejected"}
    for example in parse(row):
        if pair and not (example.chosen and example.rejected):
            raise UnfitError("no pair", "the row has no chosen and rejected answer")
        if job.to == "dialogues" and not example.chosen:
            raise UnfitError("no answer", "the row is a prompt only")
        fit_for_chat(example, preference=pair)
        yield example


def _record(job: Job, example: Example) -> dict[str, Any]:
    source = job.source or Path(job.path).name
    if job.to == "dialogues":
        return to_json(Dialog(messages=(*example.prompt, *example.chosen), source=source))
    if job.to == "prompts":
        text = json.dumps(messages_json(example.prompt), ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        kind, source = example.kind or job.kind, "/".join(filter(None, (source, example.source)))
        return to_json(Prompt(id=digest, messages=example.prompt, kind=kind, source=source, meta=example.meta))
    if job.to == "rankings":
        return to_json(
            Ranking(
                prompt=example.prompt,
                answers=example.answers,
                comparisons=example.comparisons,
                kind=job.kind,
                source=source,
                meta=example.meta,
            )
        )
    return to_json(
        Preference(
            prompt=example.prompt,
            chosen=example.chosen,
            rejected=example.rejected,
            rating=rate(example.gap, job.ratings),
            votes=example.votes,
            kind=job.kind,
            source=source,
        )
    )
