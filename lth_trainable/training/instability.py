"""Instability analysis: copies of one network trained on under different SGD noise, and the straight line between them.

Frankle et al., arXiv 1912.05671, section 2: from the weights of the rewind point, under one mask, two copies are
trained with different orders of the data (augmentation and dropout too). Where the error stays low all the way from one
to the other, they have come to the same linearly connected minimum: the network is stable to SGD noise from there on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from lth_trainable.data.datasets import Dataset
from lth_trainable.data.loaders import EVALUATION_BATCH, ResidentLoader
from lth_trainable.errors import UserError
from lth_trainable.pruning.masks import Mask
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.pruning.supermask import batchnorms, recompute_batchnorm
from lth_trainable.spec.rewind_point import RewindPoint
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.states import States
from lth_trainable.store.store import WEIGHTS, Damaged, Store
from lth_trainable.tensors import row_major
from lth_trainable.training.execution import Execution
from lth_trainable.training.learner import LevelClock, measure
from lth_trainable.training.trial import Trial

SPLITS = ("train", "test")
BATCH_NORMS = ("raw", "recomputed")

_AGAIN = "rerun the sweep's command"

Tensors = Mapping[str, Tensor]
Curves = dict[tuple[str, str], tuple[float, ...]]  # errors, per cent, by part and batch norm


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where copies of a network set out.

    spec: of the trial. origin: its network and data; its weights are scratch. point: every tensor there, and after the
    first update the optimiser's state. masks: of the ticket, by parameter name; empty for the dense network. step:
    updates before the point.
    """

    spec: TrialSpec
    data: Dataset
    execution: Execution
    origin: Trial
    point: Snapshot
    masks: Mapping[str, Mask]
    step: int


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A trained copy: every tensor, and what a trial's end is measured by; both empty where it diverged."""

    tensors: Tensors
    evaluation: Mapping[str, Any]

    @property
    def diverged(self) -> bool:
        return not self.tensors


def start_at(
    spec: TrialSpec,
    data: Dataset,
    execution: Execution,
    *,
    store: Store,
    state: str,
    fingerprint: Mapping[str, Any],
    rewound_to: RewindPoint,
    masks: Mapping[str, Mask],
) -> Start:
    """The start at the stored state `state`, made under this fingerprint.

    rewound_to: its epoch or iteration. Raises `UserError` where the state is not stored, is
    damaged, or holds too little to train on from.
    """
    origin = Trial(spec, data, execution, None)
    step = rewound_to.updates_before(origin.steps_per_epoch)
    point = _point(store, state, fingerprint, origin, step)
    return Start(spec=spec, data=data, execution=execution, origin=origin, point=point, masks=masks, step=step)


def train_copy(start: Start, order_seed: int) -> Copy:
    """Train on from the start to the end of the trial's epochs, all SGD noise drawn from `order_seed`.

    Learning rate, momentum and the numbers of the epochs are those of the trial. With the trial's own seed (and no
    order seed apart) the copy is the trial itself, bit for bit.
    """
    spec = replace(start.spec, control="dense", seed=order_seed, order_seed=None, validate_every=None)
    trial = Trial(spec, start.data, start.execution, None)
    is_fresh = start.step == 0 or start.spec.rewind_optimizer == "fresh"
    start.point.restore(trial.model, None if is_fresh else trial.learn.opt)
    if start.masks:
        assert trial.pruner is not None
        trial.pruner.apply_mask(dict(start.masks))
    epoch, skip = divmod(start.step, trial.steps_per_epoch)
    trial.fit(epoch, start.spec.epochs, LevelClock(skip=skip))
    if trial.log.diverged:
        return Copy(tensors={}, evaluation={})
    return Copy(tensors=Snapshot(trial.model).tensors, evaluation=trial.evaluation())


def errors_between(start: Start, a: Tensors, b: Tensors, n_points: int) -> Curves:
    """Errors, per cent, of `n_points` networks evenly spaced on the straight line from a to b, both included.

    Every tensor is interpolated: weights, norms' affine weights, and BatchNorm's running statistics ("raw"). For
    "recomputed" these are gathered anew on training data, in one order for all networks and without augmentation
    (`supermask.recompute_batchnorm`); a network without them has equal curves. The mask is the same at both ends, so
    what it removes is zero on all the line.
    """
    model, loss = start.origin.model, start.origin.learn.loss_func
    train = start.origin.dls.train.dataset
    loaders = {
        "train": ResidentLoader(train, EVALUATION_BATCH, None, start.execution.device),
        "test": start.origin.dls[2],
    }
    gathering = ResidentLoader(train, start.spec.batch_size, start.spec.seed, start.execution.device)
    curves: dict[tuple[str, str], list[float]] = {(split, norm): [] for split in SPLITS for norm in BATCH_NORMS}
    for alpha in alphas(n_points):
        start.point.replaced(between(a, b, alpha)).restore(model)
        networks = {"raw": model}
        if batchnorms(model):
            networks["recomputed"] = recompute_batchnorm(model, gathering)
        for split, loader in loaders.items():
            errors = {norm: 100 * (1 - measure(network, loader, loss).accuracy) for norm, network in networks.items()}
            for norm in BATCH_NORMS:
                curves[split, norm].append(errors.get(norm, errors["raw"]))
    return {key: tuple(errors) for key, errors in curves.items()}


def alphas(n_points: int) -> tuple[float, ...]:
    """Places on the line, 0 (all a) to 1 (all b)."""
    return tuple(index / (n_points - 1) for index in range(n_points))


def between(a: Tensors, b: Tensors, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) a + alpha b, exactly a and b at the ends; of whole numbers (counters), those of the nearer end."""
    nearer = a if alpha < 0.5 else b
    return {
        name: torch.lerp(tensor, b[name], alpha) if tensor.is_floating_point() else nearer[name]
        for name, tensor in a.items()
    }


def pack_tensors(tensors: Tensors) -> bytes:
    """As a safetensors file."""
    return save(row_major(tensors))


def unpack_tensors(content: bytes) -> dict[str, Tensor]:
    return load(content)


def _point(store: Store, path: str, fingerprint: Mapping[str, Any], origin: Trial, step: int) -> Snapshot:
    try:
        folder = store.find(path)
        if folder is None:
            raise UserError(f"{path}: found no such state; expected the trial's rewind weights; {_AGAIN}")
        content = {name: store.content(folder, name) for name in folder.manifest["files"]}
    except Damaged as damage:
        raise UserError(f"{damage}; {_AGAIN}") from damage
    if step == 0:  # of an initialisation the store has the weights alone; there is no more to it
        initial = origin.initial_state(anew=origin.spec.starts_over).snapshot
        return initial.replaced({**initial.tensors, **load(content[WEIGHTS])})
    state = States(store, fingerprint).load(folder.manifest["key"], origin.initial)
    if state is None:
        raise UserError(
            f"{path}: found weights alone, as --keep-states none leaves them; expected the optimiser's state too, to "
            f"train on from; {_AGAIN} without --keep-states none, under another --name"
        )
    return state.snapshot
