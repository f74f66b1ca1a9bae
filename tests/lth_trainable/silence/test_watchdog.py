"""A process whose trial is silent is ended from outside, whatever it does, and its folder says why. Real processes, all
of them at once; `tests/support/silent.py` is what they run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import ROOT

LIMITS = {
    "hang": 1.0, "hang_in_c": 1.0, "stop": 1.0, "store": 1.0, "never_begin": 0.4, "wait": 1.5, "go_on": 3.0,
    "crash": 60.0, "leave": 60.0, "fork_and_leave": 60.0, "unwatched": 0.0,
}  # fmt: skip
DEADLINE = 60.0
Started = dict[str, subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("silent")


@pytest.fixture(scope="module")
def started(storage: Path) -> Iterator[Started]:
    processes = {what: start(storage, what, limit) for what, limit in LIMITS.items()}
    try:
        yield processes
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start(storage: Path, what: str, limit: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.silent", str(storage), what, str(limit)], cwd=ROOT,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return found


def failure(storage: Path, what: str) -> dict[str, Any]:
    return dict(json.loads((storage / "run" / "trials" / what / "failure.json").read_text()))


def watchers(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes in its session that watch."""
    found = subprocess.run(
        ["pgrep", "-s", str(process.pid), "-f", "silence/watcher.py"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("hang", "s at level 2, epoch 7"),
        ("hang_in_c", "s at level 2, epoch 7"),
        ("stop", "s at level 2, epoch 7; its process was stopped"),
        ("store", "s at level 2, epoch 7, while a state was stored"),
        ("never_begin", "s before the first one"),
    ],
)
def test_a_silent_process_is_killed_and_the_reason_noted(
    storage: Path, started: Started, what: str, reason: str
) -> None:
    assert started[what].wait(DEADLINE) == -signal.SIGKILL
    noted = failure(storage, what)
    assert noted["reason"].startswith("no step for ") and noted["reason"].endswith(reason)
    assert noted["launch"] == "this" and noted["last"] is False
    until(lambda: not watchers(started[what]))


@pytest.mark.parametrize(("what", "line"), [("hang", "in hang"), ("hang_in_c", "in hang_in_c"), ("store", "in hang")])
def test_where_it_hung_is_noted_too(storage: Path, started: Started, what: str, line: str) -> None:
    started[what].wait(DEADLINE)
    stack = failure(storage, what)["traceback"].splitlines()
    assert stack[0] == "Stack (most recent call last):" and stack[-1].endswith(line)


def test_the_stack_of_a_stopped_process_is_not_known(storage: Path, started: Started) -> None:
    started["stop"].wait(DEADLINE)
    assert failure(storage, "stop")["traceback"] == ""


@pytest.mark.parametrize("what", ["wait", "go_on"])
def test_a_trial_that_goes_on_or_waits_for_the_driver_is_left_alone(storage: Path, started: Started, what: str) -> None:
    assert started[what].wait(DEADLINE) == 0
    assert not (storage / "run" / "trials" / what).exists()
    until(lambda: not watchers(started[what]))


def test_a_crash_is_noted_with_its_place(storage: Path, started: Started) -> None:
    assert started["crash"].wait(DEADLINE) == -signal.SIGSEGV
    until((storage / "run" / "trials" / "crash" / "failure.json").exists)
    noted = failure(storage, "crash")
    assert noted["reason"] == "its process crashed at level 2, epoch 7: Segmentation fault"
    assert noted["traceback"].splitlines()[-1].endswith("in string_at")


@pytest.mark.parametrize("what", ["leave", "fork_and_leave"])
def test_the_watch_ends_with_the_process_it_watches(storage: Path, started: Started, what: str) -> None:
    """Also if a child of that process lives on, with the pipes that it has inherited."""
    assert started[what].wait(DEADLINE) == 5
    until(lambda: not watchers(started[what]))
    assert not (storage / "run" / "trials" / what).exists(), "who has killed it is not known"


def test_without_a_limit_nothing_watches(started: Started) -> None:
    process = started["unwatched"]
    until(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().count(b"\0") > 3)
    assert process.poll() is None and not watchers(process)


def test_a_machine_that_slept_is_not_silence(storage: Path, started: Started) -> None:
    """All processes are stopped for longer than the limit, as those of a job that is suspended; then they go on."""
    process = started["slept"] = start(storage, "slept", 0.8)  # 4 s before its first step
    stopped = [*until(lambda: watchers(process)), process.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    time.sleep(0.5)
    assert process.poll() is None
    assert process.wait(DEADLINE) == -signal.SIGKILL, "it hangs, which is told only now"
    assert failure(storage, "slept")["reason"].startswith("no step for ")
