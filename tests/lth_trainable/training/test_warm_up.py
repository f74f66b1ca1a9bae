"""A process that has been warmed up trains each trial to the same bytes as one that has not."""

from __future__ import annotations

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
def test_bytes_do_not_depend_on_it(name: str, device: str, store: Store) -> None:
    spec, execution = TrialSpec(**{**SMALL, **SPECS[name]}), Execution(device=device)
    before = run_trial(spec, store, "cold", execution)
    warm_up(TrialSpec(**{**SMALL, **SPECS[name], "seed": 7}), execution)
    assert results(run_trial(spec, Store(store.root), "warm", execution)) == results(before)


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
