"""Sweeps with `--replicas`: whatever disturbs them, and whoever trains with whom, they end with the same bytes."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray.tune import ExperimentAnalysis

from tests.support import disturb
from tests.support.command import ONE_WORKER, hashes
from tests.support.disturb import WORKER, finish, processes_of, sealed, send, until

pytestmark = pytest.mark.slow
ARGUMENTS = (
    "digits", "--replicas", "4", "--controls", "reinit", "--epochs", "12", "--sparsity", "40", "64",
    "--rewind-epoch", "0", "1", "--seeds", "3",
)  # fmt: skip
N = 3 * (1 + 2 * 2 * 2)


def start(storage: Path, *more: str) -> subprocess.Popen[str]:
    return disturb.start(storage, *ARGUMENTS, *more)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed")
    summary = finish(start(storage, *ONE_WORKER))
    assert summary["done"] == summary["planned"] == N and summary["epochs_trained"] == summary["epochs_distinct"]
    return storage


def test_every_trial_is_in_rays_results_with_its_metrics_and_a_checkpoint(undisturbed: Path) -> None:
    (launch,) = (undisturbed / "digits" / "ray").iterdir()
    listed = {trial.custom_trial_name: trial for trial in ExperimentAnalysis(str(launch)).trials}
    records = {
        path.parent.name: json.loads(path.read_text()) for path in undisturbed.glob("digits/trials/*/record.json")
    }
    assert set(listed) == set(records) and len(records) == N
    for name, trial in listed.items():
        assert trial.last_result["test_accuracy"] == records[name]["result"]["test_accuracy"], name
        assert trial.last_result["status"] == "done" and trial.checkpoint is not None, name
        assert records[name]["fingerprint"]["replicas"] == 4


def test_with_two_workers_members_have_other_company_and_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    finish(start(tmp_path, "--max-concurrent", "2", "--max-covered-in-ray", "0"))
    assert hashes(tmp_path) == hashes(undisturbed)


def test_killed_workers_cost_no_stored_state_and_no_trial(undisturbed: Path, tmp_path: Path) -> None:
    process, kept = start(tmp_path, *ONE_WORKER), dict[str, Any]()
    for _ in range(2):
        enough = len(kept) + 7
        assert until(lambda enough=enough: len(sealed(tmp_path)) >= enough, process)
        kept = sealed(tmp_path)
        send(processes_of(process, WORKER))
    summary = finish(process)
    assert (summary["done"], summary["failed"]) == (N, 0)
    assert {key: sealed(tmp_path)[key] for key in kept} == kept, "no stored state was written again"
    assert hashes(tmp_path) == hashes(undisturbed)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL], ids=lambda how: how.name)
def test_a_command_that_is_ended_goes_on_from_what_its_members_have_stored(
    undisturbed: Path, tmp_path: Path, how: signal.Signals
) -> None:
    process = start(tmp_path, *ONE_WORKER)
    assert until(lambda: len(sealed(tmp_path)) >= 8, process)
    kept = sealed(tmp_path)
    send([process.pid], how)
    process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGUSR1: 3, signal.SIGKILL: -9}[how]
    summary = finish(start(tmp_path, *ONE_WORKER))
    assert summary["done"] == N and summary["epochs_trained"] < summary["epochs_distinct"]
    assert {key: sealed(tmp_path)[key] for key in kept if key in sealed(tmp_path)}.items() <= kept.items()
    assert hashes(tmp_path) == hashes(undisturbed)


def test_a_budget_of_epochs_stops_cohorts_at_stored_states(undisturbed: Path, tmp_path: Path) -> None:
    process = start(tmp_path, *ONE_WORKER, "--max-epochs", "40")
    out, err = process.communicate(timeout=280)
    assert process.returncode == 3, out + err
    first = json.loads(out.strip().splitlines()[-1])
    assert first["stopped_by"] == "--max-epochs" and first["done"] < N
    second = finish(start(tmp_path, *ONE_WORKER))
    assert first["epochs_trained"] + second["epochs_trained"] <= second["epochs_distinct"] + 4
    assert hashes(tmp_path) == hashes(undisturbed)
