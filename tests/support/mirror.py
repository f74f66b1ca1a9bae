"""A network whose barrier with its own mirror image is known by hand, and a small run of LeNets, for tests of lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import WEIGHTS, Store, to_json
from lth_trainable.training.instability import pack_tensors
from lth_trainable.training.lifecycle import Keep
from lth_trainable.training.run import run_trial
from tests.support.records import plan

CLASSES = 10
LENET: dict[str, Any] = {"batch_size": 230, "epochs": 10, "lr": 0.02, "prune_rate_pct": 40.0}
DENSE = TrialSpec(**LENET, control="dense")
TICKETS = {target: TrialSpec(**LENET, target_sparsity_pct=target, rewind_epoch=0) for target in (64.0, 87.04)}
MIRROR: dict[str, Any] = {"model": "tests.support.mirror:two_units_a_class", "batch_size": 64, "epochs": 1}


def two_units_a_class(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """Two hidden units for each class, and an output layer."""
    inputs = int(np.prod(shape))
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 2 * n_classes, bias=False), nn.ReLU(), nn.Linear(2 * n_classes, n_classes)
    )


MIRRORED = TrialSpec(**MIRROR, target_sparsity_pct=40.0, rewind_epoch=0), TrialSpec(**MIRROR, control="dense")


def nearest_mean(mirrored: bool) -> dict[str, Tensor]:
    """A network that answers the class whose mean training image m is nearest: m x - |m|^2 / 2 is largest.

    m x is relu(m x) - relu(-m x), so a class has the hidden units m and -m with the output weights 1 and -1. Mirrored,
    both units of each class have changed places: the same function. Halfway between the two networks the first layer is
    (m - m) / 2 = 0, so whatever the image is, the answer is the class with the largest bias.
    """
    data = load_dataset("digits")
    images, labels = torch.as_tensor(data.train.x).flatten(1), torch.as_tensor(data.train.y)
    means = torch.stack([images[labels == k].mean(0) for k in range(CLASSES)])
    sign = -1.0 if mirrored else 1.0
    first = torch.stack([sign * means, -sign * means], dim=1).flatten(0, 1)
    second = torch.zeros(CLASSES, 2 * CLASSES)
    for k in range(CLASSES):
        second[k, 2 * k], second[k, 2 * k + 1] = sign, -sign
    return {"1.weight": first, "3.weight": second, "3.bias": -means.square().sum(1) / 2}


def error_halfway(split: str) -> float:
    """The error (percent) halfway between the network and its mirror image, from the labels alone."""
    data = load_dataset("digits")
    answer = int(nearest_mean(mirrored=False)["3.bias"].argmax())
    return 100 * (1 - float((getattr(data, split).y == answer).mean()))


def train_lenets(storage: Path, keep: Keep | None = None) -> Path:
    """A run of a dense LeNet and two tickets; the ends of its levels 1 and 3 are stored only as `keep` says."""
    for spec in (DENSE, *TICKETS.values()):
        run_trial(spec, Store(storage), "run", **({} if keep is None else {"keep": keep}))
    return write_plan(storage, [DENSE, *TICKETS.values()])


def make_mirrored_run(storage: Path, specs: Sequence[TrialSpec] = MIRRORED) -> Path:
    """A run whose dense networks are `nearest_mean`, and whose tickets are their mirror images, unpruned for once."""
    store = Store(storage)
    for spec in specs:
        run_trial(spec, store, "run")
        folder = store.find(store.trial("run", spec.name))
        assert folder is not None
        state = store.find(folder.manifest["states"]["final"])
        assert state is not None
        files = {name: store.content(state, name) for name in state.manifest["files"]}
        kept = ("kind", "key", "complete", "optimizer", "fingerprint")
        about = {name: value for name, value in state.manifest.items() if name in kept}
        store.seal(state.path, files | {WEIGHTS: pack_tensors(nearest_mean(not spec.is_dense))}, about)
    return write_plan(storage, specs)


def write_plan(storage: Path, specs: Any) -> Path:
    digests = {seed: load_dataset("digits", split_seed=seed).digest for seed in {s.split_seed for s in specs}}
    trials = [{"name": s.name, "key": s.key(digests[s.split_seed]), "spec": s.canonical()} for s in specs]
    Store(storage).write("run/plan.json", to_json(plan(list(specs), trials=trials)))
    return storage / "run"
