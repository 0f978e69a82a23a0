"""Energy and carbon: the recipe page's rows, and counters made by hand."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from align import energy
from align.energy import Counter, EnergyMeter, carbon_kg, counters, energy_wh


@pytest.mark.parametrize(
    ("hours", "watts", "tonnes"),
    [(184_320, 400, 31.22), (368_640, 400, 62.44), (1_038_336, 350, 153.90), (1_720_320, 400, 291.42)],
)
def test_the_rows_of_the_paper(hours: float, watts: float, tonnes: float) -> None:
    """Table 2 of arXiv 2307.09288, 7B to 70B, to 0.01 t."""
    assert carbon_kg(energy_wh(hours, watts)) / 1000 == pytest.approx(tonnes, abs=0.01)


def reads(*values: float) -> Callable[[], float]:
    left = list(values)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_counter_s_difference_is_what_was_used() -> None:
    with EnergyMeter([Counter("a", reads(100.0, 3700.0)), Counter("b", reads(5.0, 5.0 + 7200.0))], period=60) as meter:
        pass
    assert meter.joules == {"a": 3600.0, "b": 7200.0}
    assert meter.wh == pytest.approx(3.0)


def test_a_counter_that_turned_over_and_one_that_was_silent_for_a_while() -> None:
    meter = EnergyMeter([Counter("a", reads(90.0, 10.0, math.nan, 30.0), turnover=100.0)], period=60)
    for _ in range(4):
        meter._look()
    assert meter.joules == {"a": 20.0 + 20.0}


def test_nothing_to_count_is_none_and_not_zero() -> None:
    with EnergyMeter([]) as meter:
        pass
    assert meter.joules == {}
    assert meter.wh is None


def domain(powercap: Path, folder: str, name: str, microjoules: int) -> None:
    place = powercap / folder
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    (place / "max_energy_range_uj").write_text("262143328850\n")


def test_packages_are_counted_once_and_their_parts_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    domain(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    domain(tmp_path, "intel-rapl:2", "psys", 99_000_000)
    (tmp_path / "intel-rapl:3").mkdir()  # not to be read, as the kernel has it for anyone but root
    found = counters(tmp_path)
    assert [(c.name, c.read()) for c in found] == [("RAPL package-0", 5.0), ("RAPL package-1", 7.0)]
    assert found[0].turnover == pytest.approx(262143.32885)


def test_boards_are_asked_through_their_driver_s_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 100.5\necho 99.5\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [c.name for c in counters(tmp_path / "none")] == ["NVIDIA boards"]
    tool.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert counters(tmp_path / "none") == []
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert counters(tmp_path / "none") == []


def test_power_is_added_up_over_time() -> None:
    times, watts = reads(0.0, 2.0, 3.0), reads(100.0, 200.0, 0.0)
    meter = energy._PowerOverTime(watts, times)
    assert [meter.read() for _ in range(3)] == [0.0, 300.0, 400.0]


def test_two_attempts_are_added() -> None:
    assert energy.merge({"a": 1.0}, {"a": 2.0, "b": 3.0}) == {"a": 3.0, "b": 3.0}
