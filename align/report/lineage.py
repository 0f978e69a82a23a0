"""The run as a picture: every artifact below what it was made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.artifacts import Manifest, resolve
from align.report.charts import shorten, svg
from align.report.cost import stage_colors
from align.report.markup import Markup, element, number, text

BOX, TALL, GAP_X, GAP_Y = 104.0, 34.0, 12.0, 26.0
DATA = "data"  # an edge that carries files, not weights


@dataclass(frozen=True, slots=True)
class Node:
    """A box: what it says, and what lies above it by kind of edge."""

    name: str
    stage: str  # empty for a model from elsewhere
    above: Mapping[str, str]  # key of another node -> "weights" or "data"


def nodes_of(family: Mapping[Path, Manifest | None]) -> dict[str, Node]:
    """The artifacts of a run and what they were made from, by folder.

    An edge of data that a longer way says too is left out, and so is any edge into an evaluation: otherwise what is
    made first would be tied to everything.
    """
    edges: dict[str, dict[str, str]] = {}
    for folder, manifest in family.items():
        above: dict[str, str] = {}
        for entry in manifest.inputs if manifest else ():
            found = resolve(folder, entry["path"]).resolve()
            holder = next((str(p) for p in (found, *found.parents) if p in family and p != folder), None)
            if holder:
                above[holder] = DATA
        for entry in manifest.parents if manifest else ():
            above[str(resolve(folder, entry["path"]).resolve())] = "weights"
        edges[str(folder)] = {key: kind for key, kind in above.items() if Path(key) in family}
    found = {}
    for folder, manifest in family.items():
        above = edges[str(folder)]
        stage = manifest.stage if manifest else ""
        kept = {
            key: kind
            for key, kind in above.items()
            if (kind != DATA and stage != "evaluate")
            or not any(key in _reachable(other, edges) for other in above if other != key)
        }
        found[str(folder)] = Node(folder.name, stage, kept)
    return found


def picture(nodes: Mapping[str, Node], links: Mapping[str, str]) -> Markup:
    """Boxes in rows, each below all that it was made from.

    Args:
        nodes: from :func:`nodes_of`, at least one.
        links: by folder, the address on the page that the box leads to.
    """
    rows = _rows(nodes)
    widest = max(len(row) for row in rows)
    width = widest * (BOX + GAP_X) + GAP_X
    place = {}
    for depth, row in enumerate(rows):
        left = (width - len(row) * (BOX + GAP_X) + GAP_X) / 2
        for index, key in enumerate(row):
            place[key] = (left + index * (BOX + GAP_X), 8 + depth * (TALL + GAP_Y))
    parts = [_edge(place[above], place[key], kind) for key, node in nodes.items() for above, kind in node.above.items()]
    parts += [_box(node, *place[key], links.get(key)) for key, node in nodes.items()]
    told = "; ".join(
        f"{node.name} from {', '.join(nodes[key].name for key in node.above)}" for node in nodes.values() if node.above
    )
    return svg(f"Lineage: {told}", width, len(rows) * (TALL + GAP_Y) - GAP_Y + 16, *parts)


def _reachable(key: str, edges: Mapping[str, Mapping[str, str]]) -> set[str]:
    """All that lies above a node."""
    seen: set[str] = set()
    queue = [key]
    while queue:
        for above in edges.get(queue.pop(), {}):
            if above not in seen:
                seen.add(above)
                queue.append(above)
    return seen


def _rows(nodes: Mapping[str, Node]) -> list[list[str]]:
    """Each node one row below the lowest of those above it, ordered within a row by where those stand."""
    depth: dict[str, int] = {}

    def deep(key: str) -> int:
        if key not in depth:
            depth[key] = 0  # an edge back, which no honest manifest has, ends here
            depth[key] = 1 + max((deep(above) for above in nodes[key].above), default=-1)
        return depth[key]

    rows: dict[int, list[str]] = defaultdict(list)
    for key in nodes:
        rows[deep(key)].append(key)
    ordered = [rows[index] for index in range(max(rows) + 1)]
    below: dict[str, list[str]] = defaultdict(list)
    for key, node in nodes.items():
        for above in node.above:
            below[above].append(key)
    for _ in range(4):  # to and fro: by the middle of the neighbours above, then of those below
        for around in (lambda key: list(nodes[key].above), lambda key: below[key]):
            at = {key: (index + 0.5) / len(row) for row in ordered for index, key in enumerate(row)}
            for row in ordered:
                middle = {
                    key: sum(at[n] for n in near) / len(near) if (near := around(key)) else at[key] for key in row
                }
                row.sort(key=middle.__getitem__)
    return ordered


def _edge(above: tuple[float, float], below: tuple[float, float], kind: str) -> Markup:
    x0, y0, x1, y1 = above[0] + BOX / 2, above[1] + TALL, below[0] + BOX / 2, below[1]
    bend = max(GAP_Y * 0.7, (y1 - y0) * 0.45)
    way = f"M{number(x0)} {number(y0)}C{number(x0)} {number(y0 + bend)} {number(x1)} {number(y1 - bend)} "
    return element("path", d=f"{way}{number(x1)} {number(y1)}", class_=f"edge {kind}")


def _box(node: Node, x: float, y: float, link: str | None) -> Markup:
    color = stage_colors().get(node.stage, 7)
    parts: Sequence[Markup] = (
        element("title", text(f"{node.name}: {node.stage or 'a model from elsewhere'}")),
        element("rect", x=x, y=y, width=BOX, height=TALL, rx=7, class_=f"box s{color}"),
        element("text", text(shorten(node.name, 17)), x=x + BOX / 2, y=y + 15, class_="name", text_anchor="middle"),
        element("text", text(node.stage or "elsewhere"), x=x + BOX / 2, y=y + 27, class_="kind", text_anchor="middle"),
    )
    return element("a", *parts, href=link) if link else element("g", *parts)
