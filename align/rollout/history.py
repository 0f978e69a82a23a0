"""Earlier rounds of rejection sampling: whose answers they hold, to what, at which temperature.

A past policy's samples are an asset of the run: a later round takes them from here, scores them anew where the
reward models have changed, and samples only what is missing. A policy is known by its digest and a prompt by its
messages, so that rounds may name, number and order theirs as they like.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from align.artifacts import folder_digest, read_manifest
from align.data.schema import messages_of, read_rollouts
from align.errors import ArtifactError, DataError
from align.records import Messages, Prompt
from align.rollout.best import usable

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer

Row: TypeAlias = dict[str, Any]  # of data_schemas/rollout.json
ROLLOUTS, PROBES = "rollouts.jsonl", "probes.jsonl"


@dataclass(frozen=True, slots=True)
class Version:
    """A policy that answers, or answered."""

    name: str  # in the rows; of one version alone
    sha256: str  # its artifact's digest
    folder: Path | None = None  # None: known from its answers alone


@dataclass(frozen=True, slots=True)
class Round:
    """An earlier rejection artifact."""

    folder: Path
    versions: tuple[Version, ...]  # oldest first
    latest: str | None  # digest of the version whose temperature was sought
    temperature: float | None
    rewards: Mapping[str, str]  # helpful, safety -> digest of the artifact that scored
    tokenizer: str  # digest of the tokenizer that the rows' tokens are of


def read_round(folder: Path) -> Round:
    """What a rejection artifact says of itself; its rows are read by :func:`rows_of`.

    Raises:
        ArtifactError: no artifact, one of another stage, or one whose manifest does not say who answered.
    """
    manifest = read_manifest(folder)
    if manifest.stage != "rejection":
        hint = "; a policy belongs under policies" if (folder / "config.json").is_file() else ""
        raise ArtifactError(f"{folder}: found an artifact of {manifest.stage}, expected one of rejection{hint}")
    found = manifest.metrics
    lacking = [key for key in ("policies", "rewards", "tokenizer", "temperature") if key not in found]
    if lacking:
        raise ArtifactError(
            f"{folder}: metrics: found no {', '.join(lacking)}; the artifact was made by an earlier form of this "
            "stage: make it anew"
        )
    versions = tuple(Version(policy["name"], policy["sha256"]) for policy in found["policies"])
    search = found["temperature"]
    latest, chosen = search["policy_sha256"], search["chosen"]
    return Round(folder, versions, latest, chosen, found["rewards"], found["tokenizer"])


class History:
    """The rows of earlier rounds, each once, by policy and prompt, with what is left of their scores."""

    def __init__(self, folders: Sequence[Path], rewards: Mapping[str, str], tokenizer: Tokenizer, digest: str) -> None:
        """Read the rounds, oldest first.

        Args:
            folders: rejection artifacts.
            rewards: name -> digest of the reward models of today; scores by others are dropped.
            tokenizer: of these reward models; the tokens of rows by another one are replaced by the text's, and
                their answers that ended badly, which no text can say, are left out.
            digest: of that tokenizer's file.
        """
        self.rounds = [read_round(folder) for folder in folders]
        self._answers: dict[tuple[str, Messages], list[Row]] = defaultdict(list)
        self._probes: dict[tuple[str, Messages, float], list[Row]] = defaultdict(list)
        seen: set[tuple[Any, ...]] = set()
        for known in self.rounds:
            retell = tokenizer if known.tokenizer != digest else None
            for name in (ROLLOUTS, PROBES):
                for row in rows_of(known, name, retell):
                    messages = messages_of(row["prompt"])
                    place = (
                        name, row["policy_sha256"], row["prompt_id"], messages, row["temperature"], row["sample"],
                        *row["tokens"],
                    )  # fmt: skip
                    if place in seen:  # a round carries on what it took from an earlier one
                        continue
                    seen.add(place)
                    row["scores"] = {
                        judge: score
                        for judge, score in row["scores"].items()
                        if retell is None and judge in rewards and known.rewards.get(judge) == rewards[judge]
                    }
                    if name == ROLLOUTS:
                        self._answers[row["policy_sha256"], messages].append(row)
                    else:
                        self._probes[row["policy_sha256"], messages, row["temperature"]].append(row)

    def versions(self) -> Iterator[Version]:
        """Every policy that answered, each once, oldest first."""
        seen = set()
        for known in self.rounds:
            for version in known.versions:
                if version.sha256 not in seen:
                    seen.add(version.sha256)
                    yield version

    def answers(self, policy: str, messages: Messages) -> list[Row]:
        """What the policy of a digest answered to a prompt."""
        return self._answers.get((policy, messages), [])

    def probes(self, policy: str, temperature: float, messages: Messages) -> list[Row]:
        """What it answered when a temperature was tried."""
        return self._probes.get((policy, messages, temperature), [])

    def all_probes(self) -> Iterator[Row]:
        """All that anyone answered when temperatures were tried."""
        for rows in self._probes.values():
            yield from rows

    def other_prompts(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts that were answered and are not among these, each once; an id that is taken is told apart."""
        seen, taken = {prompt.messages for prompt in prompts}, {prompt.id for prompt in prompts}
        found: list[Prompt] = []
        for (_, messages), rows in self._answers.items():
            if messages in seen:
                continue
            row = rows[0]
            name = row["prompt_id"]
            for number in itertools.count(2):
                if name not in taken:
                    break
                name = f"{row['prompt_id']}#{number}"
            seen.add(messages)
            taken.add(name)
            kind, source, meta = row.get("kind", "helpful"), row.get("source", ""), row.get("meta", {})
            found.append(Prompt(id=name, messages=messages, kind=kind, source=source, meta=meta))
        return found

    def temperature(self, policy: str) -> float | None:
        """The temperature found for a policy when it was the latest."""
        found = [known.temperature for known in self.rounds if known.latest == policy]
        return found[-1] if found else None


def rows_of(known: Round, name: str, retell: Tokenizer | None) -> Iterator[Row]:
    """The rows of one of a round's files; with a tokenizer, those that a text can say, in its tokens."""
    for number, row in enumerate(read_rollouts(known.folder / name), 1):
        where = f"{known.folder / name}:{number}"
        if "policy_sha256" not in row:
            raise DataError(f"{where}: policy_sha256: missing; without it nobody can tell whose answer it is")
        if retell is None:
            yield row
        elif usable(row):
            yield row | {"tokens": retold(retell, row)}


def retold(tokenizer: Tokenizer, row: Row) -> list[int]:
    """The answer's tokens by a tokenizer that did not sample it: those of the written answer, EOS included."""
    from align.data.template import encode_dialog, encode_prompt
    from align.records import Message

    prompt = messages_of(row["prompt"])
    whole = encode_dialog(tokenizer, (*prompt, Message("assistant", row["answer"])), where=f"prompt {row['prompt_id']}")
    return [int(token) for token in whole.tokens[len(encode_prompt(tokenizer, prompt)) :]]


def shelf(history: History, policies: Sequence[Path]) -> list[Version]:
    """Every version that takes part, oldest first: those known from their answers alone, then the given folders.

    Two versions of one folder name are told apart by their digest.

    Raises:
        ArtifactError: one policy is given twice.
    """
    folders: dict[str, Path] = {}
    for folder in policies:
        digest = folder_digest(folder)
        if digest in folders:
            raise ArtifactError(f"{folder}: found the policy of {folders[digest]} again, expected each version once")
        folders[digest] = folder
    found = [version for version in history.versions() if version.sha256 not in folders]
    found += [Version(folder.name, digest, folder) for digest, folder in folders.items()]
    names = Counter(version.name for version in found)
    return [
        version if names[version.name] == 1 else replace(version, name=f"{version.name}-{version.sha256[:8]}")
        for version in found
    ]
