"""Trials on a user's own DataLoaders: killed, resumed and shared, with and without workers; all bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.segments import segments
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import WEIGHTS, Store
from lth_trainable.training import lifecycle
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from tests import own_data
from tests.support.kills import dies_after, file_of, folders, kill

IMP: dict[str, Any] = {
    "dataset": "tests.own_data:fastai_loaders", "model": "tests.plugins:tiny_cnn", "batch_size": 16, "epochs": 3,
    "target_sparsity_pct": 40, "rewind_epoch": "4it",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTH_CACHE", str(tmp_path / "cache"))
    load_dataset.cache_clear()
    return own_data.write_folder(tmp_path / "images")


def weights(store: Store, spec: TrialSpec, root: Path) -> bytes:
    """The bytes of the final weights."""
    data = load_dataset(spec.dataset, root)
    chain = segments(spec, data.digest, -(-len(data.train) // spec.batch_size))
    [folder] = folders(store, chain[-1].key)
    return file_of(folder, WEIGHTS).read_bytes()


def without_seconds(record: dict[str, Any]) -> Any:
    return [{**row, "seconds": 0} for row in record["epochs"]], record["result"], record["key"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_trial_ends_with_the_bytes_of_an_undisturbed_one(
    workers: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, where = TrialSpec(**IMP), Execution(data_root=root)
    whole = Store(tmp_path / "whole")
    record = run_trial(spec, whole, execution=where)
    monkeypatch.setattr(lifecycle, "RESUME_SECONDS", 0.0)
    monkeypatch.setenv("WORKERS", str(workers))
    load_dataset.cache_clear()
    store = Store(tmp_path / "killed")
    for n_epochs in (1, 2):  # in the dense network, and in the level that starts within an epoch
        kill(spec, store, n_epochs, execution=where)
    again = run_trial(spec, store, "r", execution=where)
    assert 0 < again["epochs_trained"] < record["epochs_trained"]
    assert weights(store, spec, root) == weights(whole, spec, root)
    assert without_seconds(again) == without_seconds(record)


def test_tickets_share_the_dense_network(root: Path, store: Store) -> None:
    where = Execution(data_root=root)
    dense = TrialSpec(
        **{k: v for k, v in IMP.items() if k not in ("target_sparsity_pct", "rewind_epoch")}, control="dense"
    )
    first = run_trial(dense, store, execution=where)
    shallow = TrialSpec(**{**IMP, "rewind_epoch": 0})
    second = run_trial(shallow, store, execution=where)
    assert first["epochs_trained"] == 3 and second["epochs_trained"] == 3  # the level; the dense network is shared
    assert second["epochs"][:3] == first["epochs"]
    assert dies_after(0) is not None and second["data"]["n_train"] == 42
