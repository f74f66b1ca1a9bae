"""Where the time of a trial goes: its wall time in parts, such as training and storing. Needs no torch.

Code says which part it is, `with part("storing"):` or `@part("storing")`, whether it is measured or not. Only within
`running()` that costs more than looking up a name. A part within another one counts alone: validation within training
is validation. So the parts, with "other" for what nothing has named, add up to the wall time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

OTHER = "other"
PARTS = (
    "import", "data", "network", "capture", "training", "validation", "pruning", "storing", "waiting", "measuring",
    OTHER,
)  # fmt: skip


class Stopwatch:
    """Measures from its making on. settle: called where a part begins or ends, to wait for a device; None: nothing."""

    def __init__(self) -> None:
        self.settle: Callable[[], None] | None = None
        self.idle = idle_seconds()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._within = [OTHER]  # the parts that have begun, the innermost last
        self._since = self._started = time.perf_counter()

    def begin(self, part: str) -> None:
        self._count()
        self._within.append(part)

    def end(self) -> None:
        """End the part that began last."""
        self._count()
        self._within.pop()

    def abandon(self) -> None:
        """End it because of an exception, without waiting for the device: that may be broken, and hide the reason."""
        settle, self.settle = self.settle, None
        self.end()
        self.settle = settle

    def read(self) -> tuple[float, dict[str, float]]:
        """Wall time so far, and the seconds of each part, which add up to it."""
        self._count()
        return self._since - self._started, dict(self._seconds)

    def _count(self) -> None:
        if self.settle is not None:
            self.settle()
        now = time.perf_counter()
        self._seconds[self._within[-1]] += now - self._since
        self._since = now


_of_thread = threading.local()  # a trial runs in one thread; others of its process are not measured
_last_end: list[float] = []  # when the last trial of this process ended


def current() -> Stopwatch | None:
    """The stopwatch of the trial of this thread; None if it is not measured."""
    return getattr(_of_thread, "stopwatch", None)


class part(contextlib.ContextDecorator):
    """Marks a block or a function as a part of a trial, one of `PARTS`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        stopwatch = current()
        if stopwatch is not None:
            stopwatch.begin(self.name)

    def __exit__(self, kind: object, *_: object) -> None:
        stopwatch = current()
        if stopwatch is not None:
            stopwatch.end() if kind is None else stopwatch.abandon()


@contextlib.contextmanager
def running(wanted: bool = True) -> Iterator[Stopwatch | None]:
    """Measure the block, if that is wanted. Within another such block, that one's stopwatch goes on."""
    stopwatch = current()
    if stopwatch is not None or not wanted:
        yield stopwatch
        return
    _of_thread.stopwatch = Stopwatch()
    try:
        yield _of_thread.stopwatch
    finally:
        _of_thread.stopwatch = None
        _last_end[:] = [time.perf_counter()]


def idle_seconds() -> float | None:
    """Since the last measured trial of this process, or else since its start; None if the system does not say that."""
    if _last_end:
        return time.perf_counter() - _last_end[0]
    try:
        born = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # ticks since the system's start
        return max(0.0, float(Path("/proc/uptime").read_text().split()[0]) - born / os.sysconf("SC_CLK_TCK"))
    except OSError:  # not Linux
        return None
