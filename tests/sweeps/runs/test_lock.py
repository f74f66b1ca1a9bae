"""One driver at a time on a run: which drivers count as alive, and what the file says."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import sweeps.runs.health
import sweeps.runs.lock
from lth_trainable.errors import UserError
from lth_trainable.store.store import Store
from sweeps.runs.lock import SILENT_SECONDS, RunLock, is_alive, read_driver

NOW = 1_700_000_000.0


def file_of(store: Store) -> Path:
    return Path(store.root, "digits", "driver.json")


def lock(store: Store, what_runs: Any = dict) -> RunLock:
    return RunLock(store, "digits", what_runs)


def put(store: Store, content: dict[str, Any]) -> None:
    store.write("digits/driver.json", json.dumps(content).encode())


def here(**changes: Any) -> dict[str, Any]:
    """The content of a driver's file; by default it is this process on this machine."""
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "born": sweeps.runs.lock._born(os.getpid()), "beat": 0}
    return {**mine, "started": NOW, "token": "of another", **changes}


def elsewhere(silent: float) -> dict[str, Any]:
    return here(host="another machine", beat=time.time() - silent)


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def test_the_file_is_there_while_the_lock_is_held_and_says_who(store: Store, stopped_clock: None) -> None:
    assert read_driver(store, "digits") is None
    with lock(store, lambda: {"a": {"epochs": 3, "level": 1}}) as held:
        found = read_driver(store, "digits")
        assert found == {
            "host": socket.gethostname(), "pid": os.getpid(), "born": sweeps.runs.lock._born(os.getpid()),
            "token": held.token, "started": NOW, "beat": NOW, "running": {"a": {"epochs": 3, "level": 1}},
        }  # fmt: skip
        assert is_alive(found)
    assert not file_of(store).exists()


def test_the_lock_is_released_when_the_sweep_raises(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), lock(store):
        1 / 0  # noqa: B018
    assert not file_of(store).exists()
    with lock(store):
        pass


def test_a_second_driver_is_refused_with_the_first_ones_name(store: Store) -> None:
    with lock(store):
        with pytest.raises(UserError, match=f"process {os.getpid()} on {re.escape(socket.gethostname())}, since"):
            lock(store).__enter__()
        assert file_of(store).exists(), "the refused driver did not touch the file"
    with lock(store):
        pass


def test_runs_do_not_lock_each_other(store: Store) -> None:
    with lock(store), RunLock(store, "other", dict):
        assert read_driver(store, "digits") != read_driver(store, "other")


def test_a_driver_that_died_is_none(store: Store) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    content = here(pid=process.pid, born=sweeps.runs.lock._born(process.pid))
    assert is_alive(content)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(content), "dead, though its parent has not asked for its exit code"
    process.communicate()
    assert not is_alive(content)
    put(store, content)
    with lock(store) as held:
        assert read_driver(store, "digits")["token"] == held.token  # type: ignore[index]


def test_another_process_with_the_number_of_a_dead_driver_is_not_it(store: Store) -> None:
    assert is_alive(here())
    assert not is_alive(here(born="1"))
    put(store, here(born="1"))
    with lock(store):
        pass


@pytest.mark.usefixtures("stopped_clock")
def test_a_driver_on_another_machine_is_alive_while_it_is_heard(store: Store) -> None:
    assert is_alive(elsewhere(silent=0)) and is_alive(elsewhere(silent=SILENT_SECONDS - 1))
    assert not is_alive(elsewhere(silent=SILENT_SECONDS)) and not is_alive({"host": "another machine"})
    put(store, elsewhere(silent=SILENT_SECONDS - 1))
    with pytest.raises(UserError, match="on another machine"):
        lock(store).__enter__()
    put(store, elsewhere(silent=SILENT_SECONDS))
    with lock(store):
        pass


@pytest.mark.parametrize("content", [b"", b'{"pid": 1', b"\xff\xfe", b"null", b"[1, 2]"])
def test_an_unreadable_file_stops_nobody(store: Store, content: bytes) -> None:
    store.write("digits/driver.json", content)
    assert read_driver(store, "digits") is None
    with lock(store) as held:
        assert read_driver(store, "digits")["token"] == held.token  # type: ignore[index]
    assert not file_of(store).exists()


def beats(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> list[Any]:
    """What the file says after each of so many heartbeats."""
    monkeypatch.setattr(sweeps.runs.health, "BEAT_SECONDS", 0.001)
    told: list[Any] = []
    enough, calls = threading.Event(), iter(range(10**9))

    def what_runs() -> dict[str, int]:
        told.append((read_driver(store, "digits") or {}).get("running"))
        if len(told) >= number:
            enough.set()
        return {"beat": next(calls)}

    with lock(store, what_runs):
        assert enough.wait(60)
    assert not file_of(store).exists(), "no heartbeat after the release"
    return told[:number]


def test_each_beat_tells_what_runs_now(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert beats(store, monkeypatch, 4) == [None, {"beat": 0}, {"beat": 1}, {"beat": 2}]


def test_a_driver_taken_for_dead_leaves_the_file_of_its_successor(store: Store) -> None:
    with lock(store):
        put(store, elsewhere(silent=0))
    assert json.loads(file_of(store).read_bytes())["host"] == "another machine"


def test_without_proc_a_process_is_known_by_its_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    assert is_alive(here()) and here()["born"] == "running"
    for error, alive in ((ProcessLookupError, False), (PermissionError, True)):
        monkeypatch.setattr(os, "kill", lambda *_, error=error: (_ for _ in ()).throw(error()))
        assert is_alive(here(born="running")) is alive
