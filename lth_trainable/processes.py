"""Find and end the processes that this one has started, also those whose parent has ended before them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

PROC = "/proc"


class Process(NamedTuple):
    """A process. born: when it started, in ticks of the system, so that a later one with its number is another."""

    pid: int
    born: int


class Family:
    """Processes that were started with an environment variable, and all below them; once seen, they stay known.

    A process can lose its variable (Ray's workers write their title over it) or its parent, but not both before it is
    seen, if somebody looks now and then.
    """

    def __init__(self, variable: str, value: str) -> None:
        self.mark = f"{variable}={value}".encode()
        self._seen: set[Process] = set()

    def look(self) -> list[int]:
        """The numbers of those that are running."""
        table = _table()
        roots = {process.pid for process in self._seen & set(table)} | _marked(self.mark, table)
        self._seen = {process for process in table if process.pid in roots | _below(roots, table)}
        return [process.pid for process in self._seen if process.pid != os.getpid()]


def below(pid: int) -> list[int]:
    """Children of a process, their children, and so on. A process that has ended is not among them."""
    return sorted(_below({pid}, _table()))


def kill(find: Callable[[], Collection[int]], seconds: float = 3.0) -> list[int]:
    """Kill the processes that `find` finds, until it finds none twice or the time is over. Returns those left."""
    deadline, empty = time.monotonic() + seconds, 0
    while True:
        pids = list(find())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        empty = 0 if pids else empty + 1  # one of them may have started another in between
        if empty == 2 or time.monotonic() > deadline:
            return pids
        time.sleep(0.02)


def _table() -> dict[Process, int]:
    """Every process that has not ended, with its parent."""
    found = {}
    for pid in _pids():
        with contextlib.suppress(OSError), open(f"{PROC}/{pid}/stat", "rb") as file:  # it has ended
            fields = file.read().rpartition(b")")[2].split()
            if fields[0] != b"Z":
                found[Process(pid, int(fields[19]))] = int(fields[1])
    if found:
        return found
    listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    return {Process(int(pid), 0): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(PROC) if name.isdigit()]
    except OSError:  # no /proc, as on macOS
        return []


def _below(roots: Iterable[int], table: dict[Process, int]) -> set[int]:
    children = defaultdict(list)
    for process, parent in table.items():
        children[parent].append(process.pid)
    found, look_at = set[int](), list(roots)
    while look_at:
        more = [child for child in children[look_at.pop()] if child not in found]
        found.update(more)
        look_at += more
    return found


def _marked(mark: bytes, table: dict[Process, int]) -> set[int]:
    """Processes that were started with this environment variable; only where there is a /proc, and only one's own."""
    found = set()
    for pid, _ in table:
        with contextlib.suppress(OSError), open(f"{PROC}/{pid}/environ", "rb") as file:  # it has ended, or is another's
            if mark in file.read().split(b"\0"):
                found.add(pid)
    return found
