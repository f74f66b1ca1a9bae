"""A stand-in for NVIDIA's `nvidia-cuda-mps-control`: a daemon that does nothing, and a record of its calls."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CONTROL = """#!{python} -IS
import os, signal, subprocess, sys, time
from pathlib import Path

pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
pid_file = pipes / "nvidia-cuda-mps-control.pid"
said = "-d" if "-d" in sys.argv else sys.stdin.read().strip()
with open({calls!r}, "a") as calls:
    calls.write(f"{{said}} {{pipes}}\\n")
if said == "-d":
    if {fails!r}:
        print("Cannot start the daemon:\\nno such device")
        sys.exit(1)
    daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL)
    pid_file.write_text(str(daemon.pid))
    sys.exit(0)
if not pid_file.exists():
    print("Cannot find MPS control daemon process")
    sys.exit(1)
if said == "quit":
    if {hangs!r}:
        time.sleep(1000)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
"""


class StandIn:
    """The program in a folder of its own, which comes first on the PATH of this process and its children."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False, hangs: bool = False):
        folder.mkdir(exist_ok=True)
        self.calls_file, program = folder / "calls", folder / "nvidia-cuda-mps-control"
        program.write_text(CONTROL.format(python=sys.executable, calls=str(self.calls_file), fails=fails, hangs=hangs))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    @property
    def calls(self) -> list[str]:
        """What it was asked to do: "-d", "quit", ..."""
        return (
            [line.split()[0] for line in self.calls_file.read_text().splitlines()] if self.calls_file.exists() else []
        )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def daemon_of(folder: Path) -> int:
    """The number of the daemon's process."""
    return int((folder / "p" / "nvidia-cuda-mps-control.pid").read_text())


def until(condition: Callable[[], object]) -> None:
    """Wait until it is true; fail after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.05)
