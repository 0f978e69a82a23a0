"""Drawings read back: marks stand where the numbers say, whatever the numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from align.report.charts import Bar, Series, bars, groups, histogram, lines, ridges, shorten
from tests.report.drawings import SVG, by_class, parsed, path, words


def test_a_line_goes_through_its_points_on_both_axes() -> None:
    x, y = [0.0, 10.0, 20.0, 40.0], [1.0, 3.0, 2.0, 5.0]
    root = parsed(lines([Series(name="a", x=x, y=y)], "told", "step", "loss"))
    drawn = path(by_class(root, "line")[0])
    assert len(drawn) == 4
    # linear in both: the same map for every point
    for values, places in ((x, [p[0] for p in drawn]), (y, [p[1] for p in drawn])):
        slope = (places[-1] - places[0]) / (values[-1] - values[0])
        wanted = [places[0] + slope * (v - values[0]) for v in values]
        assert places == pytest.approx(wanted, abs=0.02)
    assert drawn[0][0] < drawn[-1][0]
    assert drawn[0][1] > drawn[-1][1], "up is more"
    # and the same map as the ticks: the one labelled 3.0 is on the height of the second point
    ticks = {"".join(t.itertext()): float(t.get("y", "")) - 3.5 for t in by_class(root, "tick")}
    assert ticks["3"] == pytest.approx(drawn[1][1], abs=0.02)
    assert len(by_class(root, "dot")) == 4
    assert root.get("aria-label") == "told"
    assert {"step", "loss"} <= set(words(root))


def test_gaps_break_a_line_and_a_lone_point_is_seen() -> None:
    y = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0, 5.0]
    root = parsed(lines([Series(name="a", x=list(map(float, range(7))), y=y)], "l", "x", "y"))
    assert by_class(root, "line")[0].get("d", "").count("M") == 3
    assert len(by_class(root, "dot")) == 5
    long = [float(i) for i in range(100)]
    holes = [math.nan if i != 50 else 1.0 for i in range(100)]
    assert len(by_class(parsed(lines([Series(name="a", x=long, y=holes)], "l", "x", "y")), "dot")) == 1


def test_a_band_lies_between_its_ends() -> None:
    s = Series(name="a", x=[0.0, 1.0], y=[2.0, 3.0], low=[1.0, 2.0], high=[4.0, 5.0])
    root = parsed(lines([s], "l", "x", "y"))
    band, line = path(by_class(root, "band")[0]), path(by_class(root, "line")[0])
    assert len(band) == 4
    assert band[0][1] < line[0][1] < band[3][1]
    unit = line[0][1] - line[1][1]  # one unit of y
    assert band[3][1] - line[0][1] == pytest.approx(unit, abs=0.03)
    assert line[0][1] - band[0][1] == pytest.approx(2 * unit, abs=0.03)


@pytest.mark.parametrize("y", [[], [math.nan], [0.0], [5.0, 5.0], [1e-12, 2e-12], [-1e12, 1e12], [math.inf]])
def test_every_kind_of_numbers_can_be_drawn(y: list[float]) -> None:
    x = [float(i) for i in range(len(y))]
    for root in (
        parsed(lines([Series(name="a", x=x, y=y)], "l", "x", "y")),
        parsed(lines([Series(name="a", x=x, y=y, low=y, high=y)], "l", "x", "y", joined=False)),
        parsed(groups([f"c{i}" for i in range(max(1, len(y)))], [Series(name="a", x=x, y=y)], "l", "x", "y")),
    ):
        for e in root.iter():
            for key, value in e.attrib.items():
                assert "nan" not in value.lower().split(), (key, value)
                assert "inf" not in value.lower(), (key, value)
        assert root.iter(f"{SVG}line")


def test_groups_stand_side_by_side_over_their_category() -> None:
    series = [
        Series(name=n, x=[0.0, 1.0], y=[0.2, 0.8], low=[0.1, 0.7], high=[0.3, 0.9], color=i)
        for i, n in enumerate("abc")
    ]
    root = parsed(groups(["left", "right"], series, "l", "x", "y", shares=True, marks=[0.5, math.nan]))
    dots = [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in by_class(root, "dot")]
    assert len(dots) == 6
    assert len({x for x, _ in dots}) == 6, "none hides another"
    assert len(by_class(root, "whisker")) == 6
    level = by_class(root, "level")
    assert len(level) == 1
    left = sorted(x for x, y in dots if y > float(level[0].get("y1", "0")))
    assert len(left) == 3, "0.2 lies below 0.5"
    assert float(level[0].get("x1", "")) < left[0] < left[-1] < float(level[0].get("x2", ""))
    assert any(word.endswith(" %") for word in words(root))


def test_bars_are_as_long_as_their_values_and_go_left_below_zero() -> None:
    rows = [
        Bar(name="two", parts=[(1.5, 0, "a"), (0.5, 1, "b")], note="2"),
        Bar(name="minus one", parts=[(-1.0, 2, "")], low=-1.5, high=-0.5),
        Bar(name="none", parts=[(0.0, 2, "")]),
    ]
    root = parsed(bars(rows, "l", "s"))
    boxes = [(float(e.get("x", "")), float(e.get("width", ""))) for e in by_class(root, "bar")]
    unit = boxes[2][1]
    assert boxes[0][1] == pytest.approx(1.5 * unit, abs=0.03)
    assert boxes[1][0] == pytest.approx(boxes[0][0] + boxes[0][1], abs=0.03), "one after another"
    assert boxes[2][0] + boxes[2][1] == pytest.approx(boxes[0][0], abs=0.03), "ends at zero"
    assert boxes[3][1] > 0, "nothing is still to be seen"
    error = by_class(root, "error")[0]
    assert float(error.get("x2", "")) - float(error.get("x1", "")) == pytest.approx(unit, abs=0.03)


def test_a_histogram_is_numpy_s() -> None:
    values = np.random.default_rng(0).normal(size=500)
    edges = np.linspace(values.min(), values.max(), 12)
    wanted, _ = np.histogram(values, edges)
    assert histogram(values.tolist(), edges.tolist()) == pytest.approx((wanted / 500).tolist())
    assert histogram([-9.0, 0.5, 9.0, 9.0], [0.0, 1.0, 2.0]) == [0.5, 0.5], "outer bins hold what lies beyond"


def test_ridges_share_one_scale_and_mark_means() -> None:
    root = parsed(ridges([("old", 0, [0.0, 1.0, 1.0]), ("new", 1, [2.0, 3.0])], [0.0, 1.0, 2.0, 3.0], "l", "score"))
    assert len(by_class(root, "ridge")) == 2
    old, new = (float(e.get("x1", "")) for e in by_class(root, "mean"))
    foot = {"".join(t.itertext()): float(t.get("x", "")) for t in by_class(root, "tick")}
    unit = (foot["3"] if "3" in foot else foot["3.0"]) - (foot["0"] if "0" in foot else foot["0.0"])
    assert new - old == pytest.approx((2.5 - 2 / 3) / 3 * unit, abs=0.05)


def test_names_are_text_wherever_they_stand() -> None:
    nasty = '<script>alert("x")</script> & \ud800'
    s = Series(name=nasty, x=[0.0], y=[1.0])
    for markup in (
        lines([s], nasty, nasty, nasty, names=[nasty]),
        bars([Bar(name=nasty, parts=[(1.0, 0, nasty)], note=nasty)], nasty, nasty),
        ridges([(nasty, 0, [1.0])], [0.0, 2.0], nasty, nasty),
    ):
        assert "<script" not in markup
        root = parsed(markup)
        assert root.get("aria-label") == nasty.replace("\ud800", "?")
        assert not list(root.iter(f"{SVG}script"))


def test_a_name_too_long_ends_in_an_ellipsis() -> None:
    assert shorten("reward-helpful", 20) == "reward-helpful"
    assert shorten("reward-helpful", 8) == "reward-…"
