"""The run as a picture: every artifact below what it was made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from align.artifacts import Manifest, resolve
from align.report.charts import shorten, svg
from align.report.cost import stage_colors
from align.report.markup import Markup, element, number, text

BOX, TALL, LANE, GAP_X, GAP_Y = 108.0, 34.0, 2.0, 11.0, 28.0
LARGEST = 1.25  # pixels a unit: a small picture is not blown up
DATA = "data"  # an edge that carries files, not weights
BOXED = -1  # the lane's number of a box itself
Stop = tuple[str, int]  # a box, or the lane of a box's lines in a row


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
    nodes = {}
    for folder, manifest in family.items():
        above = edges[str(folder)]
        stage = manifest.stage if manifest else ""
        kept = {
            key: kind
            for key, kind in above.items()
            if (kind != DATA and stage not in ("evaluate", "exam"))
            or not any(key in _reachable(other, edges) for other in above if other != key)
        }
        nodes[str(folder)] = Node(folder.name, stage, kept)
    return nodes


def picture(nodes: Mapping[str, Node], links: Mapping[str, str]) -> Markup:
    """Boxes in rows, each below all that it was made from; a line over several rows has a lane through them.

    Args:
        nodes: from :func:`nodes_of`, at least one.
        links: by folder, the address on the page that the box leads to.
    """
    rows = layout(nodes)
    at = {stop: x for row in rows for stop, x in row.items()}
    left = min(x - _width(stop) / 2 for stop, x in at.items()) - GAP_X
    right = max(x + _width(stop) / 2 for stop, x in at.items()) + GAP_X
    depth = {key: row for row, stops in enumerate(rows) for key, lane in stops if lane == BOXED}
    parts = []
    for key, node in nodes.items():
        for above, kind in node.above.items():
            lanes = [(at[above, row], _top(row)) for row in range(depth[above] + 1, depth[key])]
            way = [(at[above, BOXED], _top(depth[above]) + TALL), *lanes, (at[key, BOXED], _top(depth[key]))]
            parts.append(element("path", d=_curve(way, left), class_=f"edge {kind}"))
    for key, node in nodes.items():
        parts.append(_box(node, at[key, BOXED] - BOX / 2 - left, _top(depth[key]), links.get(key)))
    told = "; ".join(
        f"{node.name} from {', '.join(nodes[key].name for key in node.above)}" for node in nodes.values() if node.above
    )
    height = _top(len(rows)) - GAP_Y + 8
    return svg(f"Lineage: {told}", right - left, height, *parts, most=LARGEST * (right - left))


def layout(nodes: Mapping[str, Node]) -> list[dict[Stop, float]]:
    """For each row, the middles of what stands in it from left to right: boxes, and lanes of lines that go on below."""
    depth = _depths(nodes)
    rows: list[dict[Stop, None]] = [{} for _ in range(max(depth.values()) + 1)]
    ties: dict[Stop, set[Stop]] = defaultdict(set)
    for key in nodes:
        rows[depth[key]][key, BOXED] = None
    for key, node in nodes.items():
        for above in node.above:
            # lines from one box to several below share a lane as long as they go the same way
            way = [(above, BOXED), *((above, row) for row in range(depth[above] + 1, depth[key])), (key, BOXED)]
            for row, stop in enumerate(way[1:-1], depth[above] + 1):
                rows[row][stop] = None
            for one, other in pairwise(way):
                ties[one].add(other)
                ties[other].add(one)
    place = {stop: row for row, stops in enumerate(rows) for stop in stops}
    order = [list(row) for row in rows]

    def beside(stop: Stop, step: int, known: Mapping[Stop, float]) -> float:
        """The middle of what a stop is tied to in the row above (-1) or below (1)."""
        return _mean([known[tied] for tied in ties[stop] if place[tied] == place[stop] + step], known[stop])

    for _ in range(8):  # to and fro: by the middle of the neighbours above, then of those below
        for step in (-1, 1):
            for stops in order[::-step]:
                share = {stop: (i + 0.5) / len(row) for row in order for i, stop in enumerate(row)}
                middle = {stop: beside(stop, step, share) for stop in stops}
                stops.sort(key=middle.__getitem__)
    at = {stop: x for stops in order for stop, x in _spread(stops, dict.fromkeys(stops, 0.0)).items()}
    for _ in range(12):
        for step in (-1, 1):
            for stops in order[::-step]:
                at |= _spread(stops, {stop: beside(stop, step, at) for stop in stops})
    return [{stop: at[stop] for stop in stops} for stops in order]


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


def _depths(nodes: Mapping[str, Node]) -> dict[str, int]:
    """Each node one row below the lowest of those above it."""
    depth: dict[str, int] = {}

    def deep(key: str) -> int:
        if key not in depth:
            depth[key] = 0  # an edge back, which no honest manifest has, ends here
            depth[key] = 1 + max((deep(above) for above in nodes[key].above), default=-1)
        return depth[key]

    for key in nodes:
        deep(key)
    return depth


def _spread(row: Sequence[Stop], wanted: Mapping[Stop, float]) -> dict[Stop, float]:
    """Middles as near to the wanted ones as the order and the room that each needs allow."""
    gaps = [0.0, *((_width(a) + _width(b)) / 2 + GAP_X for a, b in pairwise(row))]
    offsets = list(accumulate(gaps))
    # without the room that all before them need, the places must only not descend: pool those that do (isotonic)
    pools: list[tuple[float, int]] = []
    for stop, offset in zip(row, offsets, strict=True):
        mean, count = wanted[stop] - offset, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return {stop: mean + offset for stop, mean, offset in zip(row, flat, offsets, strict=True)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _width(stop: Stop) -> float:
    return BOX if stop[1] == BOXED else LANE


def _top(row: int) -> float:
    return 8 + row * (TALL + GAP_Y)


def _curve(way: Sequence[tuple[float, float]], left: float) -> str:
    """Down through the gaps between rows in curves, straight beside the boxes of the rows that it passes."""
    (x, y), *rest = way
    drawn = [f"M{number(x - left)} {number(y)}"]
    for index, (to, top) in enumerate(rest):
        half = number((y + top) / 2)
        drawn.append(f"C{number(x - left)} {half} {number(to - left)} {half} {number(to - left)} {number(top)}")
        x, y = to, top
        if index < len(rest) - 1:
            y = top + TALL
            drawn.append(f"V{number(y)}")
    return "".join(drawn)


def _box(node: Node, x: float, y: float, link: str | None) -> Markup:
    color = stage_colors().get(node.stage, 7)
    parts: Sequence[Markup] = (
        element("title", text(f"{node.name}: {node.stage or 'a model from elsewhere'}")),
        element("rect", x=x, y=y, width=BOX, height=TALL, rx=7, class_=f"box s{color}"),
        element("text", text(shorten(node.name, 17)), x=x + BOX / 2, y=y + 15, class_="name", text_anchor="middle"),
        element("text", text(node.stage or "elsewhere"), x=x + BOX / 2, y=y + 27, class_="kind", text_anchor="middle"),
    )
    return element("a", *parts, href=link) if link else element("g", *parts)
