"""The process that keeps an MPS daemon for a sweep: starts it, and ends it once the sweep's command has ended.

    python -I -S mps_keeper.py FOLDER

Its standard input is a pipe whose other end only the command holds, so it notices every end of the command, kill -9
too. No signal to the command, its group or its session reaches it. Only the standard library is imported.

FOLDER has the pipes (`p`) and logs (`l`) of the daemon, and a lock (`lock`) that this process holds while it lives.
It is removed at the end. What a killed keeper leaves, `remove_abandoned` of the next start ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS, LOCK = "p", "l", "lock"
PIPE_VARIABLE, LOG_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
READY = b"ready\n"
START_SECONDS, QUIT_SECONDS = 20.0, 5.0


def environment_of(folder: Path) -> dict[str, str]:
    """Environment variables for a daemon with this folder, and for its clients."""
    return {PIPE_VARIABLE: str(folder / PIPES), LOG_VARIABLE: str(folder / LOGS)}


def control(folder: Path, *arguments: str, said: str = "", seconds: float) -> subprocess.CompletedProcess[str]:
    """Call NVIDIA's control program for the daemon of this folder. Raises `OSError` or `subprocess.TimeoutExpired`."""
    log = folder / LOGS / "control"
    with log.open("w+") as output:  # no pipe: the daemon would inherit it, and keep it open
        done = subprocess.run(
            [CONTROL, *arguments], input=said, stdout=output, stderr=subprocess.STDOUT, text=True, check=False,
            env={**os.environ, **environment_of(folder)}, timeout=seconds,
        )  # fmt: skip
        output.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, output.read())


def end_daemon(folder: Path) -> None:
    """End the daemon of this folder and its servers: by its own command, and what is left then by force."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # then by force
        control(folder, said="quit\n", seconds=QUIT_SECONDS)
    deadline = time.monotonic() + QUIT_SECONDS
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """The daemon of this folder, its servers and their clients: all that were started with its variable."""
    mark, found = f"{PIPE_VARIABLE}={folder / PIPES}".encode(), []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            about = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            if pid != os.getpid() and about[0] != b"Z":
                found += [pid] * (mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return found


def lock_of(folder: Path) -> int:
    """Take the lock of this folder. Raises `BlockingIOError` if another process holds it."""
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    return lock


def main(folder: Path) -> int:
    lock_of(folder)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(name, lambda *_: None)  # what it starts has the defaults
    try:
        started = control(folder, "-d", seconds=START_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _failed(folder, str(error))
    if started.returncode:
        return _failed(folder, started.stdout)
    if os.fork():  # the command must not find this process among its own, which it ends first
        os._exit(0)
    os.setsid()
    os.write(1, READY)
    os.close(1)
    while os.read(0, 64):
        pass
    end_daemon(folder)
    return 0


def _failed(folder: Path, words: str) -> int:
    os.write(1, (" ".join(words.split()) or "it gives no reason").encode())
    end_daemon(folder)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
