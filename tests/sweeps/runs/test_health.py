"""The storage is watched while a sweep runs: one that is gone, refuses, or does not answer ends it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lth_trainable.errors import StorageError
from lth_trainable.store.local_files import make_folder
from lth_trainable.store.store import Store
from sweeps.running.resources import Budget
from sweeps.running.stopping import StopRequest
from sweeps.runs import health
from sweeps.runs.health import Health, Heartbeat
from sweeps.runs.lock import RunLock
from tests.support.command import ROOT
from tests.support.sick import SickStore


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.01)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def remove_plan(root: Path) -> None:
    (root / "digits" / "plan.json").unlink()


def remove_run(root: Path) -> None:
    shutil.rmtree(root / "digits", ignore_errors=True)


def remove_all(root: Path) -> None:
    for _ in range(3):  # a heartbeat may be writing
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("remove", [remove_plan, remove_run, remove_all])
def test_a_storage_that_vanishes_is_noticed_though_no_trial_writes(
    tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    store = Store(tmp_path / "runs")
    store.write("digits/plan.json", b"{}")
    with pytest.raises(StorageError, match=r"found no .* any more"), RunLock(store.in_use(), "digits", dict) as lock:
        until(lambda: lock._heartbeat._has_plan)
        remove(tmp_path / "runs")
        until(lambda: lock.health.trouble)


def test_a_run_that_vanishes_while_a_heartbeat_is_written_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("digits/plan.json", b"{}")

    def beat() -> None:
        remove_run(tmp_path)
        raise FileNotFoundError(errno.ENOENT, "Failed renaming")

    heartbeat = Heartbeat(store, "digits", beat)
    heartbeat.start()
    until(lambda: heartbeat.health.trouble)
    heartbeat.stop_beating()
    heartbeat.stop()
    assert "found no digits/plan.json any more" in str(heartbeat.health.trouble)


def test_a_file_where_a_heartbeat_needs_a_folder_is_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    heartbeat = Heartbeat(Store(tmp_path), "digits", lambda: make_folder(tmp_path / "file"))
    heartbeat.start()
    until(lambda: heartbeat.health.trouble)
    heartbeat.stop_beating()
    heartbeat.stop()
    assert "found a file; expected a folder" in str(heartbeat.health.trouble)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES], ids=lambda n: errno.errorcode[n])
def test_a_heartbeat_that_cannot_be_written_is_trouble_at_once(tmp_path: Path, number: int) -> None:
    now = [0]
    store = SickStore(tmp_path, lambda operation: now[0] if operation == "open_output_stream" else 0)
    with pytest.raises(StorageError, match=r"found .* at digits/driver.json"), RunLock(store, "digits", dict) as lock:
        now[0] = number
        until(lambda: lock.health.trouble)


def test_an_error_of_the_sweep_itself_is_not_replaced_by_that_of_the_storage(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(Store(tmp_path), "digits", dict) as lock:
        lock.health.note("storage: found trouble")
        1 / 0  # noqa: B018


def test_a_deleted_driver_file_is_written_again(tmp_path: Path) -> None:
    """Only the plan says that the run is gone: a user may have deleted this file by hand."""
    store = Store(tmp_path)
    store.write("digits/plan.json", b"{}")
    with RunLock(store, "digits", dict) as lock:
        until(lambda: lock._heartbeat._has_plan)
        store.delete("digits/driver.json")
        until(lambda: store.exists("digits/driver.json"))
    assert not store.exists("digits/driver.json")


def test_a_storage_that_hangs_is_told_of_and_then_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(health, "SILENCE_SECONDS", 0.3)
    released = threading.Event()

    def hangs() -> None:
        released.wait()

    beat = health.Heartbeat(Store(tmp_path), "digits", hangs)
    beat.start()
    try:
        until(lambda: beat.health.trouble)
        assert "found no answer for" in str(beat.health.trouble)
        assert "has not answered for" in capsys.readouterr().err
    finally:
        released.set()
        beat.stop_beating()
        beat.stop()


STUCK = """
    import sys, time
    from pathlib import Path
    from lth_trainable import signals
    signals.install()
    from lth_trainable.store.store import Store
    from sweeps.runs import health
    from sweeps.runs.lock import RunLock
    health.BEAT_SECONDS, health.LOOK_SECONDS, health.END_SECONDS = 0.05, 0.05, 0.3

    def main():
        with RunLock(Store(sys.argv[1]), "digits", dict) as lock:
            lock.health.note("storage x: found no answer")
            time.sleep(600)  # as in a read that never returns

    signals.run(main)
"""


def test_a_main_thread_that_waits_for_the_storage_is_ended(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STUCK), str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: storage x: found no answer\n")


def test_trouble_stops_a_launch_and_gives_its_trials_no_time() -> None:
    found = Health()
    request = StopRequest(Budget(), lambda: 100.0, found)
    assert request() is None and not request.is_over
    found.note("storage: found trouble")
    assert request() is not None and request.is_over and not request.is_late
    assert request.signal is None
