"""Interrupts and kills: what is finished stays, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command import ONE_WORKER, grid, hashes, running, wait_for_trials
from tests.support.processes import left_after

LONG = ["--epochs", "12", "--sparsity", "87.04", "--rewind-epoch", "0", "1", "--seeds", "5"]


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_an_interrupt_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path: Path, how: str) -> None:
    arguments = LONG if how == "Ctrl-C" else [*LONG, *ONE_WORKER]
    with running(tmp_path, *arguments) as process:
        wait_for_trials(tmp_path, 2)
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
        else:
            os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and batch systems do
        out, err = process.communicate(timeout=120)
    summary = json.loads(out.strip().splitlines()[-1])
    assert process.returncode == (130 if how == "Ctrl-C" else 143) and "Traceback" not in err
    assert not left_after(process.pid)
    assert 2 <= summary["done"] < summary["planned"] == 15
    kept = hashes(tmp_path)
    code, again, _, err = grid(tmp_path, *LONG, *ONE_WORKER)
    assert code == 0, err
    assert (again["skipped"], again["done"]) == (len(kept), 15)
    assert {name: h for name, h in hashes(tmp_path).items() if name in kept} == kept


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


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, *LONG, *ONE_WORKER) as process:
        wait_for_trials(tmp_path, 1)
        workers = subprocess.run(  # of this sweep alone: other sweeps may be at work on the machine
            ["pgrep", "-s", str(process.pid), "-f", "ray::ImplicitFunc"], capture_output=True, text=True, check=False
        ).stdout.split()
        assert workers, "no worker to kill"
        os.kill(int(workers[0]), signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert json.loads(out.strip().splitlines()[-1])["done"] == 15
