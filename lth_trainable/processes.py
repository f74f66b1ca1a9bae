"""Find and end the processes that this one has started, also those whose parent has ended before them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Collection

PROC = "/proc"


def marked(variable: str, value: str) -> list[int]:
    """Processes that were started with this environment variable, whoever their parent is now.

    Only where there is a /proc, and only processes of this user. A process that has ended is not among them.
    """
    wanted, found = f"{variable}={value}".encode(), []
    for pid in _pids():
        with contextlib.suppress(OSError), open(f"{PROC}/{pid}/environ", "rb") as file:  # it has ended, or is not ours
            if wanted in file.read().split(b"\0"):
                found.append(pid)
    return [pid for pid in found if pid != os.getpid()]


def below(pid: int) -> list[int]:
    """Children of a process, their children, and so on. A process that has ended is not among them."""
    children: dict[int, list[int]] = defaultdict(list)
    for child, parent in _parents().items():
        children[parent].append(child)
    found, look_at = list[int](), [pid]
    while look_at:
        more = children[look_at.pop()]
        found += more
        look_at += more
    return found


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


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(PROC) if name.isdigit()]
    except OSError:  # no /proc, as on macOS
        return []


def _parents() -> dict[int, int]:
    """The parent of each process that has not ended."""
    found = {}
    for pid in _pids():
        with contextlib.suppress(OSError), open(f"{PROC}/{pid}/stat", "rb") as file:  # it has ended
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state != b"Z":
                found[pid] = int(parent)
    if found:
        return found
    listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    return {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}
