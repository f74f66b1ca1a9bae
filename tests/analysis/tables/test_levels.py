"""A row a level: its mask and its training, also where a level was never trained or diverged."""

from __future__ import annotations

from typing import Any

import pytest

import analysis
from analysis.tables.record_rows import level_rows
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store, to_json
from lth_trainable.training.run import run_trial
from tests.support.records import plan


def layer(level: int, name: str, n_weights: int, n_kept: int) -> dict[str, Any]:
    return {"level": level, "layer": name, "type": "Linear", "n_weights": n_weights, "n_kept": n_kept}


def epoch(level: int, number: int, loss: float | None, accuracy: float | None, by: str = "a") -> dict[str, Any]:
    return {
        "level": level, "epoch": number, "train_loss": loss, "valid_loss": loss, "valid_accuracy": accuracy,
        "seconds": 0.5, "trained_by": by,
    }  # fmt: skip


def test_a_level_by_hand() -> None:
    record = {
        "trial": "a",
        "layers": [layer(0, "x", 10, 10), layer(0, "y", 30, 30), layer(1, "x", 10, 0), layer(1, "y", 30, 10)],
        "epochs": [
            epoch(0, 0, 0.5, 0.8, "b"), epoch(0, 1, 0.2, 0.9), epoch(0, 2, 0.2, 0.95), epoch(0, 3, 0.3, 0.7),
            epoch(1, 2, 0.4, 0.6), epoch(1, 3, None, None),
        ],
    }  # fmt: skip
    dense, pruned = level_rows(record)
    assert dense == {
        "level": 0, "n_weights": 40, "n_kept": 40, "sparsity_pct": 0.0, "n_collapsed_layers": 0, "n_epochs": 4,
        "n_own_epochs": 3, "seconds": 2.0, "last_epoch": 3, "train_loss": 0.3, "valid_loss": 0.3, "valid_accuracy": 0.7,
        "best_valid_accuracy": 0.95, "early_stop_epoch": 1, "early_stop_valid_loss": 0.2,
        "early_stop_valid_accuracy": 0.9,
    }  # fmt: skip
    assert (pruned["n_kept"], pruned["sparsity_pct"], pruned["n_collapsed_layers"]) == (10, 75.0, 1)
    assert (pruned["last_epoch"], pruned["valid_loss"], pruned["early_stop_epoch"]) == (3, None, 2)


def test_a_level_without_epochs_has_a_mask_and_nulls() -> None:
    (row,) = level_rows({"trial": "a", "layers": [layer(1, "x", 10, 5)], "epochs": []})
    assert (row["n_kept"], row["n_epochs"], row["seconds"]) == (5, 0, 0)
    assert "valid_loss" not in row and "early_stop_epoch" not in row


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> analysis.Frames:
    """Two tickets of one chain, trained for real: the sparser one inherits the other's training."""
    storage = tmp_path_factory.mktemp("levels")
    specs = [TrialSpec(epochs=2, target_sparsity_pct=pct, rewind_epoch=1) for pct in (40.0, 64.0)]
    for spec in specs:
        run_trial(spec, Store(storage), "run")
    trials = [{"name": spec.name, "key": None, "spec": spec.canonical()} for spec in specs]
    Store(storage).write("run/plan.json", to_json(plan(specs, trials=trials)))
    return analysis.gather(storage / "run")


def test_levels_agree_with_trials_epochs_and_layers(trained: analysis.Frames) -> None:
    levels, layers, epochs = trained.levels, trained.layers, trained.epochs
    assert levels.groupby("trial")["level"].apply(list).tolist() == [[0, 1], [0, 1, 2]]
    summed = layers.groupby(["trial", "level"])[["n_kept", "n_weights"]].sum().reset_index()
    assert levels[["n_kept", "n_weights"]].to_numpy().tolist() == summed[["n_kept", "n_weights"]].to_numpy().tolist()
    for _, trial in trained.trials.iterrows():
        last = levels[levels.trial == trial.trial].iloc[-1]
        for name in ("n_kept", "sparsity_pct", "valid_loss", "valid_accuracy", "best_valid_accuracy"):
            assert last[name] == trial[name], name
        assert last.early_stop_epoch == trial.early_stop_epoch
        own = epochs[epochs.trained_by == trial.trial]
        assert levels[levels.trial == trial.trial].n_own_epochs.sum() == len(own[own.trial == trial.trial])
    assert levels.n_epochs.tolist() == [2, 1, 2, 1, 1]
    assert levels.seconds.sum() == pytest.approx(epochs.seconds.sum(), rel=1e-12)
