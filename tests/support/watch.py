"""A trial that is watched: copies of all that its next update depends on, before every batch."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback
from torch import Tensor, nn

import lth_trainable.training.trial
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial

BASE: dict[str, Any] = {
    "model": "tests.plugins:tiny_cnn", "batch_size": 230, "epochs": 4, "augment": "flip_shift", "lr": 0.01,
    "lr_policy": "one_cycle", "target_sparsity_pct": 40,
}  # fmt: skip
COLUMNS = (
    "weights", "norm affine", "running statistics", "optimiser", "learning rate and momentum", "order and augmentation",
    "dropout",
)  # fmt: skip
Seen = dict[str, dict[str, Any]]
Course = dict[tuple[int, int], Seen]  # by level and step on the trial's clock


class Watch(Callback):
    """Copies of all that the next update depends on, before every training batch and at the end."""

    order = 90

    def __init__(self) -> None:
        self.seen: Course = {}
        self.first: dict[int, int] = {}  # step of a level's first batch

    def before_batch(self) -> None:
        if self.learn.training:
            level, step = self.learn.epoch_log.describe()["level"], self.learn.clock.step
            self.first.setdefault(level, step)
            self.seen[level, step] = self.look()

    def look(self) -> Seen:
        model, optimizer = self.learn.model, self.learn.opt
        norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
        parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
        hypers = optimizer.hypers[-1]
        return {
            "weights": {n: p for n, p in parameters.items() if n.rpartition(".")[0] not in norms},
            "norm affine": {n: p for n, p in parameters.items() if n.rpartition(".")[0] in norms},
            "running statistics": {n: b.clone() for n, b in model.named_buffers()},
            "optimiser": {
                f"{index}/{name}": value.clone()
                for index, values in optimizer.state_dict()["state"].items()
                for name, value in values.items()
            },
            "learning rate and momentum": {"lr": hypers["lr"], "mom": hypers["mom"]},
            "order and augmentation": {"x": self.learn.xb[0].clone(), "y": self.learn.yb[0].clone()},
            "dropout": {"stream": torch.get_rng_state()},
        }


class Last(Callback):
    """What the network and the optimiser are when the fit of the dense network ends."""

    order = 95

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def after_fit(self) -> None:
        if self.learn.epoch_log.describe()["level"] == 0:
            self.watch.seen[0, self.learn.clock.curve.total_steps] = self.watch.look()


@functools.cache
def watched(retrain: tuple[tuple[str, Any], ...]) -> Watch:
    """A trial of `BASE` with some fields else, watched."""
    watch, make = Watch(), lth_trainable.training.trial.make_learner

    def make_watched(*args: Any) -> Any:
        learn = make(*args)
        learn.add_cb(watch)
        learn.add_cb(Last(watch))
        return learn

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(lth_trainable.training.trial, "make_learner", make_watched)
        run_trial(TrialSpec(**{**BASE, **dict(retrain)}), Store(folder))
    return watch


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> set[str]:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else a == b

    return (set(ours) ^ set(theirs)) | {n for n in set(ours) & set(theirs) if not equal(ours[n], theirs[n])}


def start_of(control: str, **fields: Any) -> tuple[dict[str, Any], int]:
    """What the first batch of a control of one level sees, and its step; `BASE` has 5 steps an epoch, 4 epochs."""
    watch = watched(tuple({"control": control, **fields}.items()))
    return watch.seen[1, watch.first[1]], watch.first[1]
