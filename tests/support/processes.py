"""Processes that a command has left behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path


def of_session(session: int) -> dict[int, str]:
    """The processes of a session that have not ended, by number: those of a command that was started in its own."""
    listed = subprocess.run(
        ["ps", "-ww", "-s", str(session), "-o", "pid=,stat=,args="], capture_output=True, text=True, check=False
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return {int(row[0]): row[2] for row in rows if not row[1].startswith("Z")}


def left_after(session: int, seconds: float = 10.0) -> dict[int, str]:
    """What is left of a session; waits for it to end, but not longer."""
    deadline = time.monotonic() + seconds
    while (found := of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def waits_for_signals(process: subprocess.Popen[str]) -> None:
    """Wait until the process handles SIGUSR1, which a command does before its imports, or has ended."""
    while process.poll() is None and signal.SIGUSR1 not in _signals_of(process.pid, "SigCgt"):
        time.sleep(0.001)


def blocked_in(pid: int) -> set[signal.Signals]:
    """The signals that the main thread of a process has blocked."""
    return _signals_of(pid, "SigBlk")


def _signals_of(pid: int, field: str) -> set[signal.Signals]:
    with contextlib.suppress(OSError, StopIteration):  # it has ended
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        mask = int(next(line for line in lines if line.startswith(field)).split()[1], 16)
        return {signum for signum in signal.Signals if mask >> (signum - 1) & 1}
    return set()
