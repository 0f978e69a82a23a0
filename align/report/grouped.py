"""Tables of helpfulness by a value of the prompts' meta, one for each source."""

from __future__ import annotations

from align.artifacts import Manifest
from align.report.tables import Table


def grouped(manifest: Manifest) -> list[Table]:
    """Of an evaluation with ``by``: a row a policy, a column a value, the mean in per cent of full helpfulness."""
    policies = {name: m["by"] for name, m in manifest.metrics["policies"].items() if m.get("by")}
    tables = []
    for source in dict.fromkeys(source for groups in policies.values() for source in groups):
        values = list(dict.fromkeys(value for groups in policies.values() for value in groups.get(source, {})))
        counts = [cell["n"] for groups in policies.values() for cell in groups.get(source, {}).values()]
        rows = [
            [name, *(f"{100 * groups[source][value]['mean']:.0f} %" for value in values)]
            for name, groups in policies.items()
        ]
        prompts = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
        title = f"Helpful by {manifest.recipe['by']}, {source} ({prompts} prompts a cell)"
        tables.append(Table(title, ["policy", *values], rows))
    return tables
