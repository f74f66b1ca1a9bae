"""The main job as a user runs it: real Ray, real fastai, real processes, real signals."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.tune import ExperimentAnalysis

import analysis
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import load_trial
from lth_trainable.training.run import Keep, run_trial
from tests.support.command import ONE_WORKER, command_without_retries, grid, hashes

SMALL = ["--epochs", "2", "--sparsity", "40", "64", "--rewind-epoch", "0", "--seeds", "2"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, dict[str, Any], str, str]]:
    storage = tmp_path_factory.mktemp("swept")
    return storage, grid(storage, *SMALL)


def test_a_sweep_ends_with_everything_done(swept: Any) -> None:
    storage, (code, summary, out, err) = swept
    assert code == 0, err
    assert {k: summary[k] for k in ("planned", "done", "failed", "skipped")} == {
        "planned": 6, "done": 6, "failed": 0, "skipped": 0,
    }  # fmt: skip
    assert summary["epochs_requested"] == 2 * (2 + 4 + 6)
    assert summary["epochs_trained"] == summary["epochs_distinct"] == 2 * (2 + 2 + 2), "what is shared is trained once"
    assert summary["run"] == str(storage / "digits") and summary["wall_s"] > 0
    assert [v["verdict"] for v in summary["verdicts"] if v["claim"] == "matches"] == ["undecided", "undecided"]
    frames = analysis.load(storage / "digits")
    assert len(frames.trials) == 6 and len(frames.epochs) == 24
    assert (storage / "digits" / "report.html").exists()
    for noise in ("Traceback", "╭", "WARNING", "Warning", "ray::"):
        assert noise not in out + err, out + err


def test_a_trial_of_the_sweep_is_the_trial_trained_alone(swept: Any, store: Store) -> None:
    storage, _ = swept
    for name, sums in hashes(storage).items():
        spec = json.loads((storage / "digits" / "trials" / name / "record.json").read_text())["spec"]
        assert run_trial(TrialSpec(**spec), store)["sha256"] == sums


def test_rays_own_results_have_every_trial_with_its_config_metrics_and_checkpoint(swept: Any) -> None:
    storage, _ = swept
    (launch,) = (storage / "digits" / "ray").iterdir()
    found = ExperimentAnalysis(str(launch))
    trials = storage / "digits" / "trials"
    assert {trial.custom_trial_name for trial in found.trials} == {folder.name for folder in trials.iterdir()}
    for trial in found.trials:
        record = json.loads((trials / trial.custom_trial_name / "record.json").read_text())
        spec = {name: value for name, value in record["spec"].items() if value is not None}
        assert {name: value for name, value in trial.config.items() if name != "task"} == spec
        assert trial.last_result["test_accuracy"] == record["result"]["test_accuracy"]
        frame = found.trial_dataframes[trial.trial_id]
        assert list(frame["valid_accuracy"]) == [row["valid_accuracy"] for row in record["epochs"]]
        weights = load_trial(trial.checkpoint).state_dict()
        expected = load_trial(trials / trial.custom_trial_name).state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


def test_every_epoch_is_a_row_of_every_trial_with_the_trial_that_trained_it(swept: Any) -> None:
    storage, _ = swept
    frames = analysis.load(storage / "digits")
    assert frames.epochs.groupby("trial").size().sort_index().tolist() == [2, 2, 4, 4, 6, 6]
    trained = frames.epochs.drop_duplicates(["trained_by", "level", "epoch"])
    assert len(trained) == 12 and frames.trials.epochs_trained.sum() == 12


def test_the_same_command_again_skips_what_is_done_and_takes_new_values(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    started = time.time()
    code, summary, _, _ = grid(storage, *SMALL)
    assert code == 0 and (summary["skipped"], summary["epochs_trained"]) == (6, 0)
    assert not [p for p in (storage / "digits" / "ray").iterdir() if p.stat().st_mtime > started]
    code, summary, _, err = grid(storage, *SMALL[:-1], "3", *ONE_WORKER)
    assert code == 0, err
    assert (summary["planned"], summary["skipped"], summary["done"]) == (9, 6, 9)
    assert summary["epochs_trained"] == 2 + 2 + 2
    assert {name: h for name, h in hashes(storage).items() if name in before} == before
    assert len(analysis.load(storage / "digits").trials) == 9


def test_damaged_trials_are_set_aside_and_recorded_again_without_training(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    trials = storage / "digits" / "trials"
    (trials / "digits-lenet_300_100-dense-e2-seed0" / "masks.safetensors").write_bytes(b"cut")
    (trials / "digits-lenet_300_100-dense-e2-seed1" / "record.json").unlink()
    (trials / "digits-lenet_300_100-imp-s64-r0-e2-seed1" / "manifest.json").unlink()
    altered = trials / "digits-lenet_300_100-imp-s40-r0-e2-seed0" / "record.json"
    altered.write_bytes(altered.read_bytes()[:-2] + b"}}")
    code, summary, out, err = grid(storage, *SMALL)
    assert code == 0, err
    assert (summary["epochs_trained"], summary["shared"]) == (0, 4) and "masks.safetensors has 3 bytes" in out
    assert "record.json does not have the SHA-256 of the manifest" in out
    assert hashes(storage) == before
    assert len(list((storage / "digits" / "quarantine").iterdir())) == 3


@pytest.mark.slow
def test_damaged_states_are_set_aside_and_trained_again_and_nothing_else_is(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    record = storage / "digits" / "trials" / "digits-lenet_300_100-imp-s40-r0-e2-seed1" / "record.json"
    (folder,) = (storage / "states" / json.loads(record.read_text())["states"]["final"]).iterdir()
    weights = next(folder.glob("weights-*"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, summary, out, err = grid(storage, *SMALL, *ONE_WORKER)
    assert code == 0, err
    assert summary["epochs_trained"] == 2, "of the level whose state was altered; a deeper one is stored"
    assert "weights.safetensors does not have the SHA-256" in out and "set aside in states/quarantine/" in out
    assert hashes(storage) == before


@pytest.mark.slow
def test_trials_whose_weights_are_gone_are_trained_again(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    shutil.rmtree(storage / "states")
    code, summary, out, err = grid(storage, *SMALL, *ONE_WORKER)
    assert code == 0, err
    assert summary["epochs_trained"] == summary["epochs_distinct"] and "are missing" in out
    assert hashes(storage) == before and (storage / "states").exists()


BAD = "tests.support.bad_trials:with_"
QUICK = ["--epochs", "1", "--schedule", "omp", "--sparsity", "50", "--rewind-epoch", "0", "--seeds", "1"]


@pytest.mark.slow
def test_failed_trials_are_named_with_the_reason_and_the_others_go_on(tmp_path: Path) -> None:
    """One fails at its first batch, one never returns from its network, and one tells Python to end."""
    code, summary, out, err = grid(
        tmp_path, *QUICK, "--model", "lenet_300_100", "tests.plugins:broken_model", f"{BAD}hang", f"{BAD}leave_0",
        "--trial-silence", "10", *ONE_WORKER, command=command_without_retries,
    )  # fmt: skip
    assert code == 1 and (summary["planned"], summary["done"], summary["failed"]) == (8, 4, 4), out + err
    assert (
        "failed: digits-tests.plugins.broken_model-dense-e1-seed0: RuntimeError: this network cannot be trained" in out
    )
    assert "with_hang-omp-s50-r0-e1-seed0: no step for 1" in out and " s at level 1, epoch 0\n" in out
    assert "seed0: SystemExit: 0 (its code called sys.exit)" in out and "Traceback" not in out + err
    trials = analysis.load(tmp_path / "digits").trials
    assert sorted(trials.status) == ["done"] * 4 + ["failed"] * 4
    assert trials[trials.status == "failed"].test_accuracy.isna().all()


@pytest.mark.slow
def test_a_trial_may_end_its_process_in_any_way(tmp_path: Path) -> None:
    """Tried as often as a user has it; the worker of each attempt is lost."""
    deeds = {
        # where a worker is free at once, the next attempt begins before this one is noted, so not always "(twice)"
        "segfault": "its process crashed at level 1, epoch 0: Segmentation fault",
        "leave_at_once": "its process ended without an error", "killed": "its process ended without an error",
        "interrupt": "KeyboardInterrupt (twice)", "unpicklable": "Unpicklable: holds a lock (twice)",
        "recursion": "RecursionError", "stopped": "its process was stopped (twice)",
        "python_memory": "found no memory left on this machine (device cpu)",
    }  # fmt: skip
    code, summary, out, err = grid(
        tmp_path, *QUICK, "--model", "lenet_300_100", *(BAD + deed for deed in deeds), "--trial-silence", "20",
        timeout=1500,
    )  # fmt: skip
    assert code == 1 and summary["failed"] == len(deeds), out + err
    assert summary["done"] == len(deeds) + 2 and "Traceback" not in out + err
    failed = dict(line.split("-omp-s50-r0-e1-seed0: ", 1) for line in out.splitlines() if line.startswith("failed: "))
    for deed, reason in deeds.items():
        assert reason in failed[f"failed: digits-tests.support.bad_trials.with_{deed}"]


@pytest.mark.slow
def test_a_trial_that_hung_is_trained_by_its_second_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUNG", str(tmp_path / "hung"))
    flags = (*QUICK, "--model", "tests.support.bad_trials:hanging_once", "--trial-silence", "10", *ONE_WORKER)
    code, summary, out, err = grid(tmp_path / "r", *flags, timeout=1000)
    assert (tmp_path / "hung").exists(), out + err
    assert code == 0 and (summary["done"], summary["failed"]) == (2, 0), out + err
    record = json.loads(next((tmp_path / "r").glob("digits/trials/*-omp-*/record.json")).read_text())
    alone = run_trial(TrialSpec(**record["spec"]), Store(tmp_path / "alone"))
    assert alone["sha256"] == record["sha256"]


@pytest.mark.slow
def test_failed_trials_are_left_alone_until_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that fails until the environment says otherwise, as a full disk or a flaky node does."""
    arguments = [
        "--epochs", "1", "--schedule", "omp", "--sparsity", "50", "--rewind-epoch", "0", "--seeds", "1",
        "--model", "tests.plugins:flaky_model", *ONE_WORKER,
    ]  # fmt: skip
    monkeypatch.setenv("FLAKY", "fails")
    assert grid(tmp_path, *arguments, command=command_without_retries)[0] == 1
    monkeypatch.setenv("FLAKY", "works")
    code, summary, out, _ = grid(tmp_path, *arguments)
    assert code == 1 and summary["failed"] == 2 and "--retry-failed" in out
    code, summary, _, _ = grid(tmp_path, *arguments, "--retry-failed")
    assert code == 0 and summary["done"] == 2 and not list(tmp_path.glob("digits/trials/*/failure.json"))


@pytest.mark.slow
def test_a_sweep_with_all_controls_and_baselines(tmp_path: Path) -> None:
    arguments = ["--epochs", "2", "--sparsity", "40", "64", "--rewind-epoch", "1", "--seeds", "2",
                 "--controls", "all", "--baselines", "all"]  # fmt: skip
    code, summary, out, err = grid(tmp_path, *arguments)
    assert code == 0 and "Traceback" not in out + err, out + err
    assert summary["planned"] == summary["done"] == 56 and summary["epochs_trained"] == summary["epochs_distinct"]
    entries = json.loads((tmp_path / "digits" / "plan.json").read_text())["trials"]
    roles = {entry["name"]: entry["role"] for entry in entries}
    assert Counter(roles.values()) == {"ticket": 4, "control": 30, "baseline": 16, "dense": 6}
    of_tickets = [e for e in entries if e["role"] == "control" and e["spec"]["control"] != "dense"]  # not dense_again
    assert {entry["parent"] for entry in of_tickets} == {name for name, role in roles.items() if role == "ticket"}
    frames = analysis.load(tmp_path / "digits")
    assert set(frames.trials.status) == {"done"} and len(frames.trials) == 56
    assert not frames.verdicts.group.str.contains("reinit|random|shuffle|-w").any()
    alone = Store(tmp_path / "alone")
    for name, sums in hashes(tmp_path).items():
        spec = json.loads((tmp_path / "digits" / "trials" / name / "record.json").read_text())["spec"]
        assert run_trial(TrialSpec(**spec), alone, keep=Keep(states={}, resumable=False))["sha256"] == sums
    code, again, _, _ = grid(tmp_path, *arguments)
    assert code == 0 and (again["skipped"], again["epochs_trained"]) == (56, 0)
