"""The time of a sweep comes from finished trials or from a process of its own; the command itself needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial
from sweeps.lth_grid import main
from sweeps.running import estimate
from tests.support.command import ROOT

SMALL = [
    "digits", "--controls", "none", "--epochs", "2", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "2",
    "--dry-run", "--json",
]  # fmt: skip
WITHOUT_TORCH = """
import sys
from sweeps.lth_grid import main
code = main(sys.argv[1:])
loaded = sorted({"torch", "fastai", "ray"} & set(sys.modules))
sys.exit(f"imported {loaded}" if loaded else code)
"""


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    assert main([*SMALL, *arguments]) == 0
    out = capsys.readouterr().out
    return json.loads(out.strip().splitlines()[-1]), out


@pytest.fixture
def without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_probe", lambda *_: pytest.fail("a trial would train"))


def train(storage: Path, run: str, **fields: Any) -> None:
    run_trial(TrialSpec(**{"control": "dense", "epochs": 2, **fields}), Store(storage), run)


@pytest.mark.parametrize("stored", [False, True], ids=["nothing stored", "a state stored"])
def test_a_dry_run_needs_no_torch_however_many_trials_there_are(tmp_path: Path, stored: bool) -> None:
    if stored:
        train(tmp_path, "digits")
    seeds = "600" if not stored else "2"  # without a finished trial, only the plan of a large sweep is free of it
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *SMALL, "--seeds", seeds, "--storage", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert figures["disk_bytes"] > 0 and figures["epochs_to_train"] == figures["epochs_distinct"] - 2 * stored
    assert (figures["estimated_s"] is not None) == stored


def test_a_large_sweep_says_how_to_learn_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, without_probe: None
) -> None:
    monkeypatch.setattr(estimate, "MOST_PROBED", 3)
    figures, out = dry_run(capsys, "--storage", str(tmp_path))
    assert figures["estimated_s"] is None and figures["disk_bytes"] > 0
    assert "--seeds 1 measures an epoch" in out


def test_finished_trials_of_the_run_give_its_pace_and_else_those_of_other_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without_probe: None
) -> None:
    train(tmp_path, "elsewhere", seed=7)
    train(tmp_path, "elsewhere", seed=8, batch_size=230)
    figures, out = dry_run(capsys, "--storage", str(tmp_path))
    assert figures["estimated_s"] > estimate.WARM_UP_SECONDS and "measured in other runs of the storage" in out
    train(tmp_path, "digits")
    assert "measured in this run" in dry_run(capsys, "--storage", str(tmp_path))[1]


def test_trials_of_another_network_or_of_other_threads_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_probe", lambda *_: (None, "asked for"))
    train(tmp_path, "elsewhere", model="tests.plugins:tiny_cnn")
    train(tmp_path, "elsewhere", batch_size=230)
    assert "asked for" in dry_run(capsys, "--storage", str(tmp_path))[1]
    train(tmp_path, "elsewhere")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert "asked for" in dry_run(capsys, "--storage", str(tmp_path), "--cpus-per-trial", "2")[1]


def test_a_network_that_cannot_train_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--model", "tests.plugins:broken_model", "--storage", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "cannot be trained (" in error and error.count("\n") == 1
    assert main([*SMALL, "--model", "tests.plugins:unbuildable_model", "--storage", str(tmp_path)]) == 2
    assert "it raises RuntimeError: this network cannot be built" in capsys.readouterr().err


def test_a_process_that_dies_while_it_measures_leaves_the_time_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr("sweeps.running.estimate.subprocess.run", lambda *_, **__: dead)
    figures, out = dry_run(capsys, "--storage", str(tmp_path))
    assert figures["estimated_s"] is None and "could not be measured: the process" in out
