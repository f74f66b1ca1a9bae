"""Signals, limits and kills: what is trained stays, nothing is left behind, and the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import ONE_WORKER, ROOT, grid, hashes, running, wait_for_trials
from tests.support.processes import blocked_in, left_after, of_session, waits_for_signals

LONG = ["--epochs", "12", "--sparsity", "87.04", "--rewind-epoch", "0", "1", "--seeds", "5"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 3}
HANGS = ["--model", "tests.plugins:hanging_cnn", "--epochs", "4", "--sparsity", "64", "--controls", "none"]


@pytest.mark.slow
def test_a_signal_to_all_processes_stores_what_is_trained_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Ctrl-C in a terminal, `timeout`, and the warning of a batch system reach Ray's processes too."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        kept = hashes(tmp_path)
        with running(tmp_path, *LONG, *ONE_WORKER) as process:
            wait_for_trials(tmp_path, len(kept) + 1)
            found = of_session(process.pid)
            [worker] = [pid for pid, what in found.items() if what.startswith("ray::ImplicitFunc")]
            assert signal.SIGTERM not in blocked_in(worker), "what a trial starts could not be ended"
            os.killpg(process.pid, number)
            for pid in found:  # as Slurm and systemd do: to each process
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            out, err = process.communicate(timeout=120)
            left = left_after(process.pid)
        summary = json.loads(out.strip().splitlines()[-1])
        assert process.returncode == CODES[number] and "Traceback" not in err, err
        [line] = [line for line in out.splitlines() if "run the same command again to continue" in line]
        assert line.startswith("interrupted" if number == signal.SIGINT else f"stopped by {number.name}")
        assert len(kept) < summary["done"] < summary["planned"] == 15 and not left
        assert {name: h for name, h in hashes(tmp_path).items() if name in kept} == kept
    kept = hashes(tmp_path)
    exit_code, again, _, err = grid(tmp_path, *LONG, *ONE_WORKER)
    assert exit_code == 0, err
    assert (again["skipped"], again["done"]) == (len(kept), 15)
    assert {name: h for name, h in hashes(tmp_path).items() if name in kept} == kept


@contextlib.contextmanager
def hanging(
    storage: Path, trials: int, *arguments: str, grace: float
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A sweep with this many trials in a forward pass that does not return, and the processes of these."""
    hang = storage / "hang"
    hang.touch()
    code = (
        "from lth_trainable import signals; signals.install(); import sys; from sweeps import lth_grid\n"
        f"from sweeps.running import stopping; stopping.GRACE_SECONDS = {grace}\n"
        "signals.run(lambda: lth_grid.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "digits", *HANGS, *arguments, "--storage", str(storage), "--json"], cwd=ROOT,
        env={**os.environ, "HANG": str(hang)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while len(found := list(storage.glob("hang.*"))) < trials:
            assert time.monotonic() < deadline and process.poll() is None, "no trial hangs"
            time.sleep(0.1)
        yield process, [int(path.suffix[1:]) for path in found]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow  # in make test: tests/sweeps/running/test_stopping.py
def test_a_trial_that_hangs_does_not_hold_up_a_signal(tmp_path: Path) -> None:
    with hanging(tmp_path, 1, "--seeds", "1", *ONE_WORKER, grace=2.0) as (process, _):
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        assert time.monotonic() - began < 60
        assert process.returncode == 143 and "Traceback" not in err and not left_after(process.pid)
    assert json.loads(out.strip().splitlines()[-1])["failed"] == 0
    (tmp_path / "hang").unlink()
    code, summary, _, err = grid(tmp_path, *HANGS, "--seeds", "1", *ONE_WORKER)
    assert code == 0 and summary["done"] == summary["planned"], err


@pytest.mark.slow
def test_max_hours_ends_a_sweep_in_time_whose_trials_hang_or_are_stopped(tmp_path: Path) -> None:
    """On a busy machine it takes a while until a trial has come so far as to hang."""
    seconds, began = 180.0, time.monotonic()
    with hanging(tmp_path, 1, "--seeds", "2", "--max-hours", str(seconds / 3600), grace=25.0) as (process, workers):
        os.kill(workers[0], signal.SIGSTOP)
        out, err = process.communicate(timeout=400)
        took = time.monotonic() - began
        left = left_after(process.pid)
    assert process.returncode == 3 and "Traceback" not in err and not left
    assert seconds < took < seconds + 75 and "stopped by --max-hours" in out
    summary = json.loads(out.strip().splitlines()[-1])
    assert (summary["failed"], summary["stopped_by"]) == (0, "--max-hours")


@pytest.mark.slow
def test_at_any_moment_a_signal_ends_the_command_with_its_code_and_one_line(tmp_path: Path) -> None:
    """A seeded choice of moments, from the first import to the last line."""
    arguments, dice = ["--epochs", "6", "--sparsity", "64", "--seeds", "2", *ONE_WORKER], random.Random(7)
    began = time.monotonic()
    code, summary, *_ = grid(tmp_path / "whole", *arguments)
    seconds = time.monotonic() - began
    assert code == 0
    whole, ends = hashes(tmp_path / "whole"), []
    for number in range(8):
        storage, moment = tmp_path / str(number), dice.uniform(0, seconds)
        name, to_all = dice.choice(list(CODES)), dice.random() < 0.5
        with running(storage, *arguments) as process:
            waits_for_signals(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                (os.killpg if to_all else os.kill)(process.pid, name)
            out, err = process.communicate(timeout=120)
            left = left_after(process.pid)
        case = f"{name.name} after {moment:.1f} of {seconds:.1f} s: {process.returncode}, {out!r}, {err!r}, {left}"
        ends.append(process.returncode)
        assert not left and "Traceback" not in err, case
        if process.returncode != 0:  # it was not over before
            assert process.returncode == CODES[name], case
            assert sum("the same command again" in line for line in (out + err).splitlines()) == 1, case
        code, summary, _, err = grid(storage, *arguments)
        assert (code, summary["done"]) == (0, summary["planned"]), err
        assert hashes(storage) == whole, case
    assert len(set(ends)) > 2


@pytest.mark.slow  # in make test: test_killed_at_random_moments_a_sweep_ends_as_an_undisturbed_one
def test_killing_the_driver_outright_loses_only_the_trials_in_flight(tmp_path: Path) -> None:
    with running(tmp_path, *LONG, *ONE_WORKER) as process:
        wait_for_trials(tmp_path, 2)
        process.kill()
        process.communicate()
    kept = hashes(tmp_path)
    code, again, _, err = grid(tmp_path, *LONG, *ONE_WORKER)
    assert code == 0, err
    assert again["skipped"] >= len(kept) >= 2 and again["done"] == 15


@pytest.mark.slow  # in make test: test_killed_at_random_moments_a_sweep_ends_as_an_undisturbed_one
def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, *LONG, *ONE_WORKER) as process:
        wait_for_trials(tmp_path, 1)
        workers = subprocess.run(  # of this sweep alone: other sweeps may be at work on the machine
            ["pgrep", "-s", str(process.pid), "-f", "ray::ImplicitFunc"], capture_output=True, text=True, check=False
        ).stdout.split()
        assert workers, "no worker to kill"
        idle = [what for what in of_session(process.pid).values() if what.startswith("ray::IDLE")]
        assert not idle, "the trial does not run in the worker that had started before and has imported what it needs"
        os.kill(int(workers[0]), signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert json.loads(out.strip().splitlines()[-1])["done"] == 15
