"""A process that has been warmed up trains each trial to the same bytes as one that has not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lth_trainable.data import cache
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training import warm_up as module
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from lth_trainable.training.trial import Trial
from lth_trainable.training.warm_up import BATCHES, warm_up
from tests.support.cohorts import results

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
SMALL: dict[str, Any] = {"batch_size": 64, "epochs": 2}
SPECS = {
    "levels": {"target_sparsity_pct": 50, "rewind_epoch": 1},
    "one fit": {"target_sparsity_pct": 50, "schedule": "iterative", "retrain": "tutorial", "epochs": 4},
    "dense, momentum": {"control": "dense", "optimizer": "sgd", "lr": 0.1, "beta2": None, "eps": None},
    "convolutions, drawn images": {"model": "conv_2", "batch_size": 460, "augment": "flip_shift", "control": "dense"},
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SPECS)
def test_bytes_do_not_depend_on_it(name: str, device: str, tmp_path: Path) -> None:
    spec, execution = TrialSpec(**{**SMALL, **SPECS[name]}), Execution(device=device)
    before = run_trial(spec, Store(tmp_path / "cold"), "r", execution)
    warm = TrialSpec(**{**SMALL, **SPECS[name], "seed": 7})
    thread = threading.Thread(target=warm_up, args=(warm, execution))  # as in a worker
    thread.start()
    thread.join()
    after = run_trial(spec, Store(tmp_path / "warm"), "r", execution)
    assert (
        after["epochs_trained"]
        == before["epochs_trained"]
        == sum(row["trained_by"] == spec.name for row in after["epochs"])
    )
    assert results(after) == results(before)


def test_it_trains_the_last_batches_of_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trial] = []

    def watched(*arguments: Any) -> Trial:
        seen.append(Trial(*arguments))
        return seen[-1]

    monkeypatch.setattr(module, "Trial", watched)
    warm_up(TrialSpec(**SMALL), Execution())
    (trial,) = seen
    assert trial.steps_per_epoch > BATCHES and trial.learn.train_iter == BATCHES


def test_nothing_is_decoded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        return cache.kept_or_decoded("none.npy", (1, 1, 1, 1), lambda _: pytest.fail("decoded"))

    monkeypatch.setattr(module, "load_dataset", load)
    with pytest.raises(cache.NotKept):
        warm_up(TrialSpec(**SMALL), Execution())
