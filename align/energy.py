"""Energy and carbon: counted where the machine counts, else what hours and stated watts come to."""

from __future__ import annotations

import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PUE = 1.1  # facility power over device power (paper section 2.2.1)
KG_PER_KWH = 0.385  # CO2 equivalent of the paper's grid
PERIOD = 5.0  # seconds between looks: a processor's counter turns over after minutes at full load
JOULES_PER_WH = 3600.0
POWERCAP = Path("/sys/class/powercap")


def energy_wh(hours: float, watts: float, pue: float = PUE) -> float:
    """Wh = device-hours × watts × PUE (paper section 2.2.1)."""
    return hours * watts * pue


def carbon_kg(wh: float, kg_per_kwh: float = KG_PER_KWH) -> float:
    """CO2 equivalent in kg; the same number is tonnes where the energy is in kWh."""
    return wh / 1000 * kg_per_kwh


@dataclass(frozen=True, slots=True)
class Counter:
    """Something whose energy can be read.

    Attributes:
        name: as the page shows it.
        read: joules since some moment, or NaN where nothing could be read just now.
        turnover: joules at which it starts again from 0; infinite where it never does.
    """

    name: str
    read: Callable[[], float]
    turnover: float = math.inf


def counters(powercap: Path = POWERCAP) -> list[Counter]:
    """What this machine counts: processor packages by RAPL, NVIDIA boards by their driver."""
    return [*_packages(powercap), *_boards()]


class EnergyMeter:
    """``with EnergyMeter() as meter: …`` and then ``meter.joules`` by counter; empty where nothing is counted.

    Counters are of the whole machine: what else runs on it is counted too.
    """

    def __init__(self, found: list[Counter] | None = None, period: float = PERIOD) -> None:
        self._counters = counters() if found is None else found
        self._period = period
        self._last: dict[str, float] = {}
        self.joules: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="align-energy", daemon=True)

    @property
    def wh(self) -> float | None:
        """Everything counted, in Wh of the devices themselves; None where nothing was."""
        return sum(self.joules.values()) / JOULES_PER_WH if self.joules else None

    def __enter__(self) -> EnergyMeter:
        self._look()
        if self._counters:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._counters:
            self._stop.set()
            self._thread.join()
            self._look()

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            self._look()

    def _look(self) -> None:
        for counter in self._counters:
            now = counter.read()
            if math.isnan(now):
                continue
            before = self._last.get(counter.name)
            if before is not None:
                turned = counter.turnover if now < before else 0.0
                self.joules[counter.name] = self.joules.get(counter.name, 0.0) + now - before + turned
            self._last[counter.name] = now


def _packages(powercap: Path) -> list[Counter]:
    """Top-level RAPL domains; what lies below one (core, dram of some) is counted in it or beside it."""
    found = []
    for folder in sorted(powercap.glob("*-rapl:*")):
        if folder.name.count(":") != 1 or math.isnan(_number(folder / "energy_uj")):  # the kernel lets root only read
            continue
        name = (folder / "name").read_text(encoding="utf-8").strip()
        if name.startswith("psys"):  # the whole platform, packages among it
            continue
        turnover = _number(folder / "max_energy_range_uj") / 1e6
        found.append(
            Counter(
                f"RAPL {name}",
                lambda file=folder / "energy_uj": _number(file) / 1e6,  # type: ignore[misc]
                math.inf if math.isnan(turnover) else turnover,
            )
        )
    return found


def _number(file: Path) -> float:
    try:
        return float(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return math.nan


def _boards() -> list[Counter]:
    """NVIDIA boards as one counter: the driver's power, added up over time."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    meter = _PowerOverTime(lambda: _board_watts(tool))
    return [] if math.isnan(meter.read()) else [Counter("NVIDIA boards", meter.read)]


class _PowerOverTime:
    """Joules from a power that is read now and then (trapezium rule)."""

    def __init__(self, watts: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._watts, self._clock = watts, clock
        self._joules, self._at, self._power = 0.0, math.nan, math.nan

    def read(self) -> float:
        power, now = self._watts(), self._clock()
        if math.isnan(power):
            return math.nan
        if not math.isnan(self._at):
            self._joules += (now - self._at) * (power + self._power) / 2
        self._at, self._power = now, power
        return self._joules


def _board_watts(tool: str) -> float:
    command = [tool, "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return math.fsum(float(line) for line in done.stdout.split("\n") if line.strip())
    except (OSError, ValueError, subprocess.SubprocessError):  # no driver, or a board that tells no power
        return math.nan


def merge(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Joules by counter of two attempts at the same work, added."""
    return {name: before.get(name, 0.0) + after.get(name, 0.0) for name in {**before, **after}}
