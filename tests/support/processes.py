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
        ["ps", "-s", str(session), "-o", "pid=,stat=,args="], capture_output=True, text=True, check=False
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
    while process.poll() is None:
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            caught = next(line for line in status if line.startswith("SigCgt")).split()[1]
            if int(caught, 16) >> (signal.SIGUSR1 - 1) & 1:
                return
        time.sleep(0.001)
