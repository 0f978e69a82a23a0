"""The peak memory of this process and all it started, measured while something runs."""

from __future__ import annotations

import resource
import threading
from collections import defaultdict
from pathlib import Path
from types import TracebackType

PERIOD = 0.5  # seconds between looks
GIB = 2**30


class PeakMemory:
    """``with PeakMemory() as peak: …`` and then ``peak.gib``: host memory, shared pages counted once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="align-memory", daemon=True)

    @property
    def gib(self) -> float:
        """The peak so far, in GiB."""
        return self.bytes / GIB

    def __enter__(self) -> PeakMemory:
        _forget_peak()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        # the kernel's own mark has seen what falls between two looks, but of this process alone
        self.bytes = max(self.bytes, _own_peak())

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, sum(_proportional(pid) for pid in _descendants()))
            if self._stop.wait(PERIOD):
                return


def _descendants() -> list[int]:
    """This process and its children's children."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        children[int(fields[1])].append(int(stat.parent.name))
    try:
        found = [int(Path("/proc/self").readlink().name)]
    except FileNotFoundError:  # no /proc on this system: the kernel's mark of this process must do
        return []
    for pid in found:  # grows while it is walked
        found += children[pid]
    return found


def _proportional(pid: int) -> int:
    """Bytes of a process, each page shared by n processes counted as 1/n."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return 0


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:  # not offered here: the peak is then that of the whole process so far
        return


def _own_peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
