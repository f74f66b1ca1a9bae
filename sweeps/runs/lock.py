"""Allow one driver at a time on a run: `RUN/driver.json` says which process it is and what it runs."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lth_trainable.errors import StorageError, UserError
from lth_trainable.signals import undoing
from lth_trainable.store.json_files import NotJson, object_from_json, to_json
from lth_trainable.store.store import Store
from sweeps.runs.health import Health, Heartbeat

DRIVER = "driver.json"
LATEST = 1e11  # seconds since 1970 of a time that can be shown as a date
SETTLING_SECONDS = 0.3  # the most time from reading the file to writing it
SILENT_SECONDS = 60.0  # without a heartbeat for so long, a driver on another machine counts as dead


class RunLock:
    """The lock that a driver holds while it trains a run: `with RunLock(store, run, what_runs): ...`.

    what_runs: gives the running trials, written with each heartbeat. Raises `UserError` if another driver is at work.
    If two start at the same moment, the one that writes last gets the lock. Both may get it if a write takes longer
    than SETTLING_SECONDS; then they train the same trials twice, which does no harm.

    While the lock is held, heartbeats watch the storage, and `health` says whether it works. Leaving the lock raises
    `StorageError` if it does not.
    """

    def __init__(self, store: Store, run: str, what_runs: Callable[[], Any]) -> None:
        self.store, self.path, self.what_runs = store, f"{run}/{DRIVER}", what_runs
        self.run, self.token, self.started = run, uuid.uuid4().hex, time.time()
        self._heartbeat = Heartbeat(store, run, self._write)
        self._held = contextlib.ExitStack()

    @property
    def health(self) -> Health:
        """Of the storage, as the heartbeats of this lock and the sweep itself find it."""
        return self._heartbeat.health

    def __enter__(self) -> RunLock:
        self._refuse_another()
        self._write()
        time.sleep(SETTLING_SECONDS)  # a driver that started at the same moment has written by now
        self._refuse_another()
        self._heartbeat.start()
        self._held.enter_context(undoing(self._release))
        return self

    def _refuse_another(self) -> None:
        other = read_driver(self.store, self.run)
        if other is not None and other.get("token") != self.token and is_alive(other):
            raise UserError(
                f"{self.run}: found another driver at work on it (process {other['pid']} on {other['host']}, since "
                f"{time.strftime('%H:%M:%S', time.localtime(other['started']))}); wait for it, stop it, or choose "
                "another --name"
            )

    def __exit__(self, kind: object, *_: object) -> None:
        self._held.close()
        self._release()
        if kind is None:
            self.health.check()

    def _release(self) -> None:
        self._heartbeat.stop_beating()
        try:
            other = read_driver(self.store, self.run)
            # else another driver took this one for dead and has the lock
            if other is None or other.get("token") == self.token:
                self.store.delete(self.path)
        except StorageError as error:
            self.health.note(error)
        finally:
            self._heartbeat.stop()

    def _write(self) -> None:
        content = {
            "host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "token": self.token,
            "started": self.started, "beat": time.time(), "running": self.what_runs(),
        }  # fmt: skip
        self.store.write(self.path, to_json(content))


def read_driver(store: Store, run: str) -> dict[str, Any] | None:
    """What the driver of a run wrote last; None if there is no driver or its file is unreadable."""
    try:
        found = store.read_as(f"{run}/{DRIVER}", object_from_json)
    except (FileNotFoundError, NotJson):
        return None
    return found if _is_heartbeat(found) else None


def _is_heartbeat(found: dict[str, Any]) -> bool:
    """Whether the entries have the right types; anything else counts as no driver."""
    times, pid = (found.get("started"), found.get("beat")), found.get("pid")
    return (
        isinstance(found.get("host"), str)
        and isinstance(pid, int) and 0 < pid < 1 << 31
        and all(isinstance(at, int | float) and 0 <= at < LATEST for at in times)
    )  # fmt: skip


def is_alive(driver: dict[str, Any]) -> bool:
    """Whether a driver still runs: its process exists on this machine, or its heartbeat on another is recent."""
    if driver.get("host") == socket.gethostname():
        born = _born(driver["pid"])
        return born is not None and born == driver.get("born")
    return abs(time.time() - driver.get("beat", 0)) < SILENT_SECONDS  # a time in the future is no sign of life either


def _born(pid: int) -> str | None:
    """When a process of this machine started, in clock ticks since boot; None if there is no such process.

    It is "running" on systems without /proc. It distinguishes the process from a later one with the same number. It
    must not change while the process runs, so psutil's `create_time` does not serve: that is wall time, and moves when
    the clock is set.
    """
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
