"""A campaign: many tiny sweeps, each disturbed at seeded moments, then run again to the end. All have the same bytes.

A moment is something that can be observed (a file of the run, a process of Ray's, a number of stored states) and a
fraction of a second more. There the driver, a worker, Ray's raylet or its control store gets a SIGKILL or a SIGTERM.

The environment variable LTH_CAMPAIGN sets the number of sweeps (100); `-k '[sweep17]'` runs one of them alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import ONE_WORKER, hashes
from tests.support.disturb import (
    CONTROL_STORE,
    DRIVER,
    RAYLET,
    WORKER,
    finish,
    processes_of,
    sealed,
    send,
    start,
    until,
)
from tests.support.processes import left_after, of_session, waits_for_signals

SWEEPS = int(os.environ.get("LTH_CAMPAIGN", "100"))
ARGUMENTS = [
    "digits", "--controls", "none", "--epochs", "12", "--sparsity", "64", "--rewind-epoch", "1", "--seeds", "1",
    *ONE_WORKER,
]  # fmt: skip
TRIALS, STATES = 2, 4
LONGEST_DELAY = 0.6  # seconds after a moment
CONTINUE = "the same command again"
CODES = {  # with which a command may end that had one of its processes killed; 0: it was over, or could go on
    (DRIVER, signal.SIGKILL): {0, -signal.SIGKILL}, (DRIVER, signal.SIGTERM): {0, 143},
    **{(WORKER, number): {0} for number in (signal.SIGKILL, signal.SIGTERM)},
    **{(of_ray, number): {0, 1} for of_ray in (RAYLET, CONTROL_STORE) for number in (signal.SIGKILL, signal.SIGTERM)},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """Which process gets which signal, and when: this many seconds after a moment."""

    moment: str
    delay: float
    victim: str
    number: signal.Signals

    def __str__(self) -> str:
        return f"{self.number.name} to the {self.victim}, {self.delay:.2f} s after {self.moment}"


def moments(storage: Path, process: subprocess.Popen[str]) -> dict[str, Callable[[], Any]]:
    """What can be observed of a sweep from outside, in about its order."""
    run = storage / "digits"
    return {
        "its start": lambda: True,
        "its lock is there": (run / "driver.json").exists,
        "its plan is there": (run / "plan.json").exists,
        "Ray's control store runs": lambda: processes_of(process, CONTROL_STORE),
        "Ray's raylet runs": lambda: processes_of(process, RAYLET),
        "a worker runs": lambda: processes_of(process, WORKER),
        **{f"states stored: {n}": lambda n=n: len(sealed(storage)) >= n for n in range(1, STATES + 1)},
        **{f"trials finished: {n}": lambda n=n: len(hashes(storage)) >= n for n in range(1, TRIALS + 1)},
        "its first table is there": lambda: any((run / "analysis").glob("*.parquet")),
        "its index is there": (run / "analysis" / "index.json").exists,
    }


def drawn(dice: random.Random, names: list[str]) -> Disturbance:
    victim, number = dice.choice(list(CODES))
    return Disturbance(moment=dice.choice(names), delay=dice.random() * LONGEST_DELAY, victim=victim, number=number)


def disturb(process: subprocess.Popen[str], storage: Path, what: Disturbance) -> bool:
    """Wait for the moment and for the victim, then send the signal; False where the sweep ended before."""
    waits_for_signals(process)  # before that, its interpreter is all that there is to kill
    condition = moments(storage, process)[what.moment]
    if not until(lambda: condition() and processes_of(process, what.victim), process):
        return False
    time.sleep(what.delay)
    send(processes_of(process, what.victim), what.number)
    return True


def results(storage: Path) -> dict[str, Any]:
    """SHA-256 of all that was trained: of each trial, and of each file of each state but for its seconds."""
    found: dict[str, Any] = dict(hashes(storage))
    for path in (storage / "states").glob("*/*/manifest.json"):
        if "passing" not in path.parent.name:
            files = json.loads(path.read_text())["files"]
            found[path.parent.parent.name] = {name: files[name]["sha256"] for name in files if "history" not in name}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    storage = tmp_path_factory.mktemp("undisturbed")
    assert finish(start(storage, *ARGUMENTS))["done"] == TRIALS
    found = results(storage)
    assert len(found) == TRIALS + STATES
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(SWEEPS), ids=lambda number: f"sweep{number}")
def test_a_disturbed_sweep_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, Any], number: int
) -> None:
    dice, course = random.Random(number), []
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(dice.choice((1, 1, 2))):
            process = start(tmp_path, *ARGUMENTS)
            started.append(process)
            what = drawn(dice, list(moments(tmp_path, process)))
            met, began = disturb(process, tmp_path, what), time.monotonic()
            out, err = process.communicate(timeout=240)
            took = f"{process.returncode} after {time.monotonic() - began:.0f} s"
            course.append(f"{what}: {took if met else 'over before'}")
            case = "\n".join([*course, out, err])
            assert process.returncode in (CODES[what.victim, what.number] if met else {0}), case
            assert "Traceback" not in out + err, case
            assert process.returncode in (0, -signal.SIGKILL) or CONTINUE in out + err, case
        print("; ".join(course))
        last = start(tmp_path, *ARGUMENTS)
        started.append(last)
        summary = finish(last)
        assert summary["done"] == summary["planned"] == TRIALS, course
        assert results(tmp_path) == undisturbed, course
        assert not list(tmp_path.glob("**/quarantine/*")), f"a write was torn: {course}"
        assert not left_after(last.pid), course
    finally:
        for process in started:
            send(of_session(process.pid))
            process.communicate()
