"""NVIDIA's MPS for the trials that share a GPU of this machine: with it, kernels of several processes run at once.

Without it, the processes on a GPU take turns. A sweep starts a daemon of its own, in a folder of its own, and ends it;
`mps_keeper.py` sees to that whatever happens to the command. A daemon of the user's is used, and left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lth_trainable.safe_text import one_line
from lth_trainable.short_paths import chosen_folder, socket_folder
from sweeps.running import mps_keeper
from sweeps.running.mps_keeper import CONTROL, LOCK, LOGS, PIPE_VARIABLE, PIPES, READY
from sweeps.running.resources import MOST

PREFIX = "lthm-"
BELOW = len(f"/{PREFIX}12345678/{PIPES}/nvidia-cuda-mps-control.pid")
DEFAULT_PIPES = Path("/tmp/nvidia-mps")
NOWHERE = "/dev/null"  # as a folder of pipes: no daemon
ANSWER_SECONDS, END_SECONDS = 5.0, 15.0
WITHOUT = "trials that share a GPU take turns"


@dataclass(frozen=True, kw_only=True)
class Mps:
    """How the trials of a sweep share a GPU. kind: "own", "user's", "off", or "none": there is none to be had.

    told: one line for the user; None for none. environment: variables for the workers. lifeline: keeps the own daemon
    alive while it is open.
    """

    kind: Literal["own", "user's", "off", "none"]
    told: str | None = None
    environment: Mapping[str, str]
    lifeline: BinaryIO | None = None

    def close(self) -> None:
        """End the own daemon, and wait until it has ended."""
        if self.lifeline is None:
            return
        self.lifeline.close()
        folder, deadline = Path(self.environment[PIPE_VARIABLE]).parent, time.monotonic() + END_SECONDS
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)


def mps_for(trials: int, wanted: str, asked: Mapping[str, str] = os.environ) -> Mps:
    """MPS for so many trials on each GPU of this machine, started if it is there. wanted: "auto" or "off"."""
    if trials < 2:
        return Mps(kind="none", environment={})
    if wanted == "off":
        return Mps(kind="off", environment={PIPE_VARIABLE: NOWHERE}, told=f"MPS is off: {WITHOUT}")
    if trials > MOST:
        return Mps(
            kind="off", environment={PIPE_VARIABLE: NOWHERE},
            told=f"MPS is off, because it serves {MOST} processes on a GPU, not {trials}: {WITHOUT}",
        )  # fmt: skip
    if shutil.which(CONTROL) is None:
        return Mps(kind="none", environment={}, told=f"no MPS: this machine has no {CONTROL}; {WITHOUT}")
    of_user = asked.get(PIPE_VARIABLE) or str(DEFAULT_PIPES)
    if _answers(of_user):
        return Mps(
            kind="user's", environment={}, told=f"MPS: trials that share a GPU use the daemon of {one_line(of_user)}"
        )
    if asked.get(PIPE_VARIABLE):
        return Mps(
            kind="none", environment={},
            told=f"no MPS: no daemon answers at {PIPE_VARIABLE}={one_line(of_user)}; {WITHOUT}",
        )  # fmt: skip
    return _own()


def _answers(pipes: str) -> bool:
    """Whether a daemon answers in this folder of pipes."""
    if not Path(pipes).is_dir():
        return False
    try:
        done = subprocess.run(
            [CONTROL], input="get_server_list\n", capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS,
            env={**os.environ, PIPE_VARIABLE: pipes},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _own() -> Mps:
    """A daemon of this sweep's own; none, with the reason, where it does not start."""
    base = Path(socket_folder(BELOW, chosen_folder()[0]))
    try:
        remove_abandoned(base)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        for name in (PIPES, LOGS):
            (folder / name).mkdir(mode=0o700)
        lifeline, problem = _kept(folder)
    except OSError as error:
        lifeline, problem = None, str(error)
    if problem is not None:
        return Mps(
            kind="none", environment={PIPE_VARIABLE: NOWHERE},
            told=f"no MPS: its daemon does not start ({one_line(problem)}); {WITHOUT}",
        )  # fmt: skip
    return Mps(
        kind="own", environment=mps_keeper.environment_of(folder), lifeline=lifeline,
        told="MPS: trials that share a GPU compute at the same time; its daemon ends with this command",
    )  # fmt: skip


def _kept(folder: Path) -> tuple[BinaryIO | None, str | None]:
    """Start the keeper of a daemon. Returns what keeps it alive while it is open, and what has gone wrong."""
    read, write = os.pipe()
    lifeline = os.fdopen(write, "wb", buffering=0)
    try:
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", mps_keeper.__file__, str(folder)], stdin=read, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert keeper.stdout is not None
        with keeper.stdout as output:
            said = output.read()
        keeper.wait()
    except OSError:
        lifeline.close()
        raise
    finally:
        os.close(read)
    if said == READY:
        return lifeline, None
    lifeline.close()
    return None, said.decode(errors="replace")


def remove_abandoned(base: Path) -> None:
    """End the daemons of this user's commands whose keepers were killed: nobody holds the locks of their folders."""
    for folder in base.glob(f"{PREFIX}????????"):
        with contextlib.suppress(OSError):  # its keeper lives, or another process removes it
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or not (folder / LOCK).exists():
                continue
            lock = mps_keeper.lock_of(folder)
            try:
                mps_keeper.end_daemon(folder)
            finally:
                os.close(lock)
