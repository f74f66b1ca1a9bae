"""One driver at a time on one run: `RUN/driver.json` says who it is, what it is doing, and that it is still there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lth_trainable.errors import UserError
from lth_trainable.store.store import Store, to_json

DRIVER = "driver.json"
BEAT_SECONDS = 5.0
SETTLING_SECONDS = 0.3  # from a look at the file to its writing, at most
SILENT_SECONDS = 60.0  # without a beat, a driver on another machine is taken for dead


class RunLock:
    """Held while a driver trains a run: `with RunLock(store, run, what_runs): ...`.

    what_runs: gives what is told with each beat. Raises `UserError` where another driver is at work. Of two that start
    in the same instant, the one that writes last gets it; both may, where a write takes longer than SETTLING_SECONDS:
    they train twice, and harm nothing.
    """

    def __init__(self, store: Store, run: str, what_runs: Callable[[], Any]) -> None:
        self.store, self.path, self.what_runs = store, f"{run}/{DRIVER}", what_runs
        self.run, self.token, self.started = run, uuid.uuid4().hex, time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> RunLock:
        self._refuse_another()
        self._write()
        time.sleep(SETTLING_SECONDS)  # another that looked in the same instant has written by now
        self._refuse_another()
        self._thread.start()
        return self

    def _refuse_another(self) -> None:
        other = read_driver(self.store, self.run)
        if other is not None and other.get("token") != self.token and is_alive(other):
            raise UserError(
                f"{self.run}: found another driver at work on it (process {other['pid']} on {other['host']}, since "
                f"{time.strftime('%H:%M:%S', time.localtime(other['started']))}); wait for it, stop it, or choose "
                "another --name"
            )

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        other = read_driver(self.store, self.run)
        if other is None or other.get("token") == self.token:  # else one that took this driver for dead has it now
            self.store.delete(self.path)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # the next beat may be heard
                self._write()

    def _write(self) -> None:
        content = {
            "host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "token": self.token,
            "started": self.started, "beat": time.time(), "running": self.what_runs(),
        }  # fmt: skip
        self.store.write(self.path, to_json(content))


def read_driver(store: Store, run: str) -> dict[str, Any] | None:
    """What the driver of a run said last; None where there is none, or its file is unreadable."""
    path = f"{run}/{DRIVER}"
    try:
        return dict(json.loads(store.read(path))) if store.exists(path) else None
    except (ValueError, TypeError, OSError):
        return None


def is_alive(driver: dict[str, Any]) -> bool:
    """Whether that driver still runs: its process on this machine, a recent beat from another."""
    if driver.get("host") == socket.gethostname():
        born = _born(int(driver["pid"]))
        return born is not None and born == driver.get("born")
    return time.time() - float(driver.get("beat", 0)) < SILENT_SECONDS


def _born(pid: int) -> str | None:
    """When a process of this machine began, to tell it from a later one of its number; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    try:  # no /proc, as on macOS
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return "running"
