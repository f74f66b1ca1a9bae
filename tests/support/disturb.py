"""Sweeps that are disturbed while they run: their processes, what they have stored by now, and waiting for either."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.support.command import ROOT, command
from tests.support.processes import of_session

DRIVER, WORKER, RAYLET, CONTROL_STORE = "driver", "worker", "raylet", "control store"
_PROGRAM = {  # how the names of their programs begin
    WORKER: "ray::ImplicitFunc", RAYLET: "raylet", CONTROL_STORE: "gcs_server",
}  # fmt: skip
DEADLINE_SECONDS = 240


def start(storage: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command with these arguments, in a session of its own."""
    return subprocess.Popen(
        command(*arguments, "--storage", str(storage), "--json"), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The summary of a command that ends well."""
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    return dict(json.loads(out.strip().splitlines()[-1]))


def sealed(storage: Path) -> dict[str, float]:
    """Each stored state with the time at which its manifest was written."""
    found = {}
    for path in (storage / "states").glob("*/*/manifest.json"):
        with contextlib.suppress(FileNotFoundError):
            found[path.parent.parent.name] = path.stat().st_mtime
    return found


def processes_of(process: subprocess.Popen[str], kind: str) -> list[int]:
    """The driver, or the processes of this kind that it has started and that run."""
    if kind == DRIVER:
        return [process.pid]
    found = of_session(process.pid).items()
    return [pid for pid, line in found if line.split()[0].rpartition("/")[2].startswith(_PROGRAM[kind])]


def send(pids: Iterable[int], number: signal.Signals = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> bool:
    """Wait for the condition; False where the sweep ended before."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.02)
    return True
