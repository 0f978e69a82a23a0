"""Every pair of policies on the same prompts: which answer each judge prefers, and the win rates that follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.files import append_line, whole_lines
from align.measures.win_rate import RIDGE, win_rate

if TYPE_CHECKING:
    from align.records import Prompt
    from align.stages.judges import Called

Row = Mapping[str, Any]  # of answers.jsonl
FORMAT = 1
FILE, LEDGER = "win_rates.json", "comparisons.jsonl"


def compare_policies(
    answers: Mapping[str, Sequence[Row]],
    prompts: Mapping[str, Prompt],
    comparers: Mapping[str, Called],
    seed: int,
    ledger: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Win rates of every two policies by every judge.

    A judge of single answers prefers the one that it scores higher; equal scores tie, and so do equal answers, which
    nobody is asked about. An answer without a score (the chat format cannot hold it) loses to one that has a score.
    A judge who compares sees the two in an order that is drawn from (seed, prompt's id, both names) alone.

    Args:
        answers: rows by policy, of the same prompts in the same order; oldest policy first.
        prompts: by id.
        comparers: judges of two answers, by name.
        seed: of the order of presentation.
        ledger: what these judges said is kept here as it comes, and not asked again after a kill.

    Returns:
        The document of data_schemas/win_rates.json, and each comparison of two (data_schemas/comparison.json).

    Raises:
        RolloutError: a judge failed.
    """
    names = list(answers)
    judges = scored_judges(answers[names[0]][0]) if names and answers[names[0]] else {}
    pairs, told = [], []
    known = dict(map(json.loads, whole_lines(ledger))) if comparers else {}
    for earlier, later in combinations(names, 2):
        both = list(zip(answers[later], answers[earlier], strict=True))
        lengths = [(len(a["answer"]), len(b["answer"])) for a, b in both]
        for judge, read in judges.items():
            outcomes = [_better(read(a), read(b)) if a["answer"] != b["answer"] else 0 for a, b in both]
            pairs.append({"judge": judge, "first": later, "second": earlier, **win_rate(outcomes, lengths)})
        for judge, called in comparers.items():
            said = []
            for a, b in both:
                if a["answer"] != b["answer"]:
                    said.append(_compared(judge, called, prompts[a["prompt_id"]], a, b, seed, known, ledger))
                    told.append(said[-1])
                else:
                    said.append({"winner": None})
            outcomes = [{later: 1, earlier: -1, None: 0}[row["winner"]] for row in said]
            pairs.append({"judge": judge, "first": later, "second": earlier, **win_rate(outcomes, lengths)})
    return {"format": FORMAT, "prompts": len(answers[names[0]]) if names else 0, "ridge": RIDGE, "pairs": pairs}, told


def scored_judges(row: Row) -> dict[str, Callable[[Row], float | None]]:
    """The judges of single answers that a row of answers tells of, and how each's score is read off a row."""
    found: dict[str, Callable[[Row], float | None]] = {}
    if "helpful" in row:
        found["judge"] = lambda row: row["helpful"]
    for key, name in (("combined", "rewards"), ("helpful", "rewards/helpful"), ("safety", "rewards/safety")):
        if key in row.get("scores", {}):
            found[name] = lambda row, key=key: row["scores"][key]  # type: ignore[misc]
    for name in row.get("judges", {}):
        found[name] = lambda row, name=name: row["judges"][name]  # type: ignore[misc]
    return found


def shown_first(seed: int, prompt_id: str, policies: tuple[str, str]) -> str:
    """Whose answer is shown first: a fair coin of (seed, prompt, both names), whatever else is compared."""
    names = sorted(policies)
    address = json.dumps([seed, prompt_id, *names])
    return names[hashlib.blake2b(address.encode(), digest_size=1).digest()[0] & 1]


def _better(a: float | None, b: float | None) -> int:
    if a is None or b is None:
        return int(a is not None) - int(b is not None)
    return int(a > b) - int(a < b)


def _compared(
    judge: str, called: Called, prompt: Prompt, a: Row, b: Row, seed: int, known: dict[str, str], ledger: Path
) -> dict[str, Any]:
    """One comparison, asked unless the ledger has it."""
    first = shown_first(seed, prompt.id, (a["policy"], b["policy"]))
    one, two = (a, b) if first == a["policy"] else (b, a)
    key = json.dumps([judge, prompt.id, one["policy"], two["policy"], one["answer"], two["answer"]])
    if key not in known:
        known[key] = called.compare(prompt, one["answer"], two["answer"])
        append_line(ledger, [key, known[key]])
    said = known[key]
    return {
        "judge": judge,
        "prompt_id": prompt.id,
        "first": one["policy"],
        "second": two["policy"],
        "said": said,
        "winner": {"first": one["policy"], "second": two["policy"], "tie": None}[said],
    }
