"""An evaluation by where its prompts come from: what a version can do, skill by skill."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

from align.artifacts import read_manifest, resolve, sha256_file
from align.data.schema import read_prompts
from align.records import Prompt
from align.report.tables import Table
from align.stats import mean_se

ANSWERS = "answers.jsonl"


def helpful_by_source(folder: Path) -> Table | None:
    """One row a policy: mean helpfulness, ± standard error, on the prompts of each source.

    Args:
        folder: of an evaluation.

    Returns:
        None where nobody judged, the prompts have one source, or their file is gone or another one now.
    """
    sources = {identity: prompt.source for identity, prompt in prompts_of_answers(folder).items()}
    if not sources:
        return None
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (folder / ANSWERS).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if "helpful" in row:
                found[row["policy"]][sources[row["prompt_id"]]].append(row["helpful"])
    names = sorted({source for by_source in found.values() for source in by_source})
    if len(names) < 2:
        return None
    rows = [[policy, *(_cell(by_source[name]) for name in names)] for policy, by_source in found.items()]
    counts = next(iter(found.values()))
    columns = ["policy", *(f"{name or 'no source'} ({len(counts[name])})" for name in names)]
    return Table("Helpfulness by source of the prompts (their number; ± standard error)", columns, rows)


def prompts_of_answers(folder: Path) -> dict[str, Prompt]:
    """The prompts of an evaluation by id; none where their file, or the answers, are gone or it is another one now."""
    manifest = read_manifest(folder)
    if not manifest.inputs:
        return {}
    prompts = resolve(folder, manifest.inputs[0]["path"])
    if not prompts.is_file() or not (folder / ANSWERS).is_file():
        return {}
    if sha256_file(prompts) != manifest.inputs[0]["sha256"]:
        return {}
    return {prompt.id: prompt for prompt in read_prompts(prompts)}


def _cell(values: list[float]) -> str:
    mean, error = mean_se(values)
    return f"{mean:z.2f} ± {'–' if math.isnan(error) else f'{error:.2f}'}"
