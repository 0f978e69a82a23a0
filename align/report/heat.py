"""A map of attention as an SVG file of its own: layers over a dialogue's columns, a panel for each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.report.markup import Markup, element, join, text

WIDTH, LEFT, RIGHT = 760.0, 74.0, 14.0
ROW, GAP = 13.0, 20.0
LIGHT, DARK = (247, 250, 253), (11, 72, 138)  # of nothing, and of the largest weight drawn
INK, FAINT = "#222", "#888"


def heat_map(told: Mapping[str, Any]) -> Markup:
    """Draw what :func:`align.stages.attention.attention_map` tells.

    Columns are means over ``bin`` tokens. The last layer is on top, over all of them the largest of the layers. One
    scale for all panels, from 0 to the largest column behind the first prompt, which holds the message itself and
    looks at it from next to it; what is larger is drawn as that.
    """
    tokens, width = len(told["tokens"]), int(told["bin"])
    panels = {name: _columns(m, width) for name, m in told["policies"].items()}
    behind = min(told["prompts"][0][1] // width + 1, -(-tokens // width) - 1)  # of one turn, the last column alone
    most = max(value for rows in panels.values() for _, row in rows for value in row[behind:]) or 1.0
    per_token = (WIDTH - LEFT - RIGHT) / tokens
    parts, y = [_title(told)], 40.0
    for name, rows in panels.items():
        parts.append(_label(name, LEFT, y + 10, "start", size=12))
        y += GAP
        for label, row in rows:
            parts.append(_label(label, LEFT - 6, y + ROW - 3, "end"))
            for first, value in zip(range(0, tokens, width), row, strict=True):
                wide = (min(first + width, tokens) - first) * per_token
                parts.append(_cell(min(1.0, value / most), LEFT + first * per_token, y, wide))
            y += ROW + (4 if label == "all" else 0)
        parts.append(_turns(told, y, per_token))
        y += GAP + 6
    parts.append(_scale(most, y))
    height = y + 40
    return element(
        "svg", element("rect", x=0.0, y=0.0, width=WIDTH, height=height, fill="#fff"), *parts,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH:g} {height:g}", width=WIDTH, height=height,
        font_family="system-ui, sans-serif", role="img", aria_label="Largest attention to the system message",
    )  # fmt: skip


def _columns(measured: Mapping[str, Any], width: int) -> list[tuple[str, list[float]]]:
    layers = measured["layers"]
    rows = [("all", measured["largest"]), *((f"layer {n + 1}", layers[n]) for n in reversed(range(len(layers))))]
    return [(label, _means(values, width)) for label, values in rows]


def _means(values: Sequence[float], width: int) -> list[float]:
    parts = [values[start : start + width] for start in range(0, len(values), width)]
    return [sum(part) / len(part) for part in parts]


def _cell(share: float, x: float, y: float, width: float) -> Markup:
    color = "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(LIGHT, DARK, strict=True))
    # a hair wider, so that no gap shows between neighbours
    return element("rect", x=x, y=y, width=width + 0.3, height=ROW - 1, fill=color)


def _title(told: Mapping[str, Any]) -> Markup:
    told_of = f"{len(told['tokens'])} tokens in {len(told['prompts'])} turns, columns of {told['bin']}"
    return join(
        [
            _label("Largest attention of each token to the system message", LEFT, 16.0, "start", size=13),
            _label(f"over heads and the message's tokens; {told_of}", LEFT, 31.0, "start"),
        ]
    )


def _turns(told: Mapping[str, Any], y: float, per_token: float) -> Markup:
    """The system message as a bar, and a tick where each turn begins, numbered where there is room."""
    first, end = told["system"]
    parts = [element("rect", x=LEFT + first * per_token, y=y, width=(end - first) * per_token, height=3.0, fill="#c33")]
    starts = [LEFT + first * per_token for first, _ in told["prompts"]]
    last = -100.0
    for turn, x in enumerate(starts, start=1):
        parts.append(element("line", x1=x, x2=x, y1=y, y2=y + 5, stroke=FAINT, stroke_width=1))
        if x - last >= 18:
            parts.append(_label(str(turn), x, y + 14, "start"))
            last = x
    return join(parts)


def _scale(most: float, y: float) -> Markup:
    parts = [_cell((step + 0.5) / 40, LEFT + 5.0 * step, y, 5.0) for step in range(40)]
    ends = [_label("0", LEFT, y + 25, "start"), _label(f"{most:.2f} and more", LEFT + 200, y + 25, "middle")]
    note = _label("red: the system message; ticks: where turns begin", LEFT + 220, y + 10, "start")
    return join([*parts, *ends, note])


def _label(said: str, x: float, y: float, anchor: str, size: int = 10) -> Markup:
    return element("text", text(said), x=x, y=y, text_anchor=anchor, font_size=size, fill=INK if size > 10 else FAINT)
