"""Learners that were exported with version 0.4, whose modules had other paths.

`tests/data/learner_0_4/learner.pkl` was written by version 0.4.0: a network of 4, 6 and 2 units after an iterative
schedule with rewinds to epoch 1, at 75 % sparsity, with resident loaders of eight images of 2x2 pixels.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner

from lth_trainable import SparsifyCallback
from lth_trainable.data import Dataset, Part
from lth_trainable.former_paths import MOVED
from lth_trainable.loaders import resident_loaders
from lth_trainable.pruning.keep_mask import KeepMask

LEARNER = Path(__file__).parents[1] / "data" / "learner_0_4" / "learner.pkl"
COUNTS = {"1.weight": 6, "3.weight": 3}


@pytest.fixture
def learn() -> Learner:
    return load_learner(LEARNER)


def callback_of(learn: Learner) -> SparsifyCallback:
    (callback,) = (cb for cb in learn.cbs if isinstance(cb, SparsifyCallback))
    return callback


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_is_another_name_of_the_module(old: str) -> None:
    assert importlib.import_module(old) is importlib.import_module(MOVED[old])


def test_old_paths_are_there_in_a_fresh_process_and_load_nothing() -> None:
    code = (
        "import sys, lth_trainable; assert 'torch' not in sys.modules;"
        "from lth_trainable.sparsify import SparsifyCallback;"
        "import lth_trainable.pruning.callback as home; assert SparsifyCallback is home.SparsifyCallback;"
        "assert home.__spec__.name == home.__name__ == 'lth_trainable.pruning.callback'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exported_learner_loads_with_its_mask(learn: Learner) -> None:
    callback = callback_of(learn)
    assert callback.pruner is not None and callback.pruner.counts == COUNTS and callback.pruner.sparsity_pct == 75.0
    assert isinstance(learn.keep_mask, KeepMask) and learn.keep_mask.is_independent
    assert {name: int(weight.count_nonzero()) for name, weight in weights(learn).items()} == COUNTS
    assert learn.model(torch.zeros(3, 1, 2, 2)).shape == (3, 2)


def test_its_callback_still_has_the_ticket_the_state_and_the_report(learn: Learner) -> None:
    callback = callback_of(learn)
    ticket = callback.ticket()
    assert {name: int(mask.sum()) for name, mask in ticket.masks.items()} == COUNTS
    assert ticket.provenance["rewind_epoch"] == 1 and ticket.rewind and ticket.initial
    assert set(callback.state_dict()) == {
        "levels", "asked", "initial", "previous", "remembered", "first", "rewind_point",
    }  # fmt: skip
    assert len(callback.state_dict()["levels"]) == 3
    assert {float(value) for value in callback.state_dict()["asked"].values()} == {0.75}


@pytest.mark.parametrize("released", [False, True])
def test_it_trains_on(learn: Learner, released: bool) -> None:
    """The zeros stay, with the callback taken off too, until it releases them."""
    callback = callback_of(learn)
    learn.remove_cb(callback)
    if released:
        callback.release()
    learn.dls = loaders()
    learn.create_opt()
    learn.fit(2, 1e-2)
    found = {name: int(weight.count_nonzero()) for name, weight in weights(learn).items()}
    assert (found == COUNTS) is not released


def test_its_callback_prunes_again_from_where_it_was(learn: Learner) -> None:
    before = {name: weight.detach() != 0 for name, weight in weights(learn).items()}
    learn.dls = loaders()
    learn.create_opt()
    learn.fit(4, 1e-2)
    assert all(not bool((weight[~before[name]] != 0).any()) for name, weight in weights(learn).items())


def weights(learn: Learner) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in learn.model.named_parameters() if name in COUNTS}


def loaders() -> DataLoaders:
    draw = np.random.default_rng(1)
    train, valid, test = (
        Part(x=draw.standard_normal((n, 1, 2, 2), dtype=np.float32), y=np.arange(n, dtype=np.int64) % 2)
        for n in (8, 4, 4)
    )
    data = Dataset(train=train, valid=valid, test=test, classes=("a", "b"), digest="0" * 64)
    return resident_loaders(data, batch_size=4, order_seed=0)
