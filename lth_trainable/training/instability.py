"""Instability analysis: copies of one network trained with different SGD noise, and the errors on the line between.

Frankle et al., arXiv 1912.05671, section 2: two copies are trained from the weights of the rewind point, under one
mask, with different orders of the data, augmentation and dropout. If the error stays low on the straight line between
them, they are in the same linearly connected minimum: from that point on, the network is stable to SGD noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lth_trainable.data.feeding import AnyDataset
from lth_trainable.data.splits import EVALUATION_BATCH
from lth_trainable.errors import UserError
from lth_trainable.pruning.masks import Mask
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.pruning.supermask import batchnorms, recompute_batchnorm
from lth_trainable.spec.rewind_point import RewindPoint
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.states import States
from lth_trainable.store.store import WEIGHTS, Damaged, Store
from lth_trainable.store.tensor_files import check_like, tensors_of
from lth_trainable.tensors import row_major
from lth_trainable.training.cohort import in_cohort_of_one
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.learner import LevelClock
from lth_trainable.training.measure import measure
from lth_trainable.training.trial import OnEpoch, Trial

SPLITS = ("train", "test")
BATCH_NORMS = ("raw", "recomputed")

_AGAIN = "rerun the sweep's command"

Tensors = Mapping[str, Tensor]
Curves = dict[tuple[str, str], tuple[float, ...]]  # errors in percent, by split and batch norm


@dataclass(frozen=True, kw_only=True)
class Start:
    """The point from which copies of a network are trained.

    spec: of the trial. origin: its network and data; its weights may be overwritten. point: every tensor at this point
    and, after the first update, the optimiser's state. masks: of the ticket, by parameter name; empty for the dense
    network. step: number of updates before the point. on_epoch: called after each epoch, with all rows so far.
    """

    spec: TrialSpec
    data: AnyDataset
    execution: Execution
    origin: Trial
    point: Snapshot
    masks: Mapping[str, Mask]
    step: int
    on_epoch: OnEpoch | None = None


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A trained copy: its tensors and the evaluation of its final network; both are empty if it diverged."""

    tensors: Tensors
    evaluation: Mapping[str, Any]

    @property
    def diverged(self) -> bool:
        return not self.tensors


def start_at(
    spec: TrialSpec,
    data: AnyDataset,
    execution: Execution,
    *,
    store: Store,
    state: str,
    fingerprint: Mapping[str, Any],
    rewound_to: RewindPoint,
    masks: Mapping[str, Mask],
) -> Start:
    """The start at a stored state.

    state: its folder. fingerprint: under which it was made. rewound_to: its epoch or iteration. Raises `UserError` if
    the state is missing, damaged, or not complete enough to continue from.
    """
    origin = Trial(spec, data, execution, None)
    step = rewound_to.updates_before(origin.steps_per_epoch)
    point = _point(store, state, fingerprint, origin, step)
    return Start(spec=spec, data=data, execution=execution, origin=origin, point=point, masks=masks, step=step)


def network_of(spec: TrialSpec, data: AnyDataset, execution: Execution) -> Start:
    """The network of a trial at its initialisation, as a place in which networks of the same shape are measured."""
    origin = Trial(spec, data, execution, None)
    return Start(spec=spec, data=data, execution=execution, origin=origin, point=origin.initial, masks={}, step=0)


def stored_tensors(store: Store, path: str, like: Start) -> dict[str, Tensor]:
    """Every tensor of the network in a stored state. What `state_dict` leaves out is as at the initialisation.

    Raises `Damaged` if the state is missing, or of another network.
    """
    folder = store.find(path)
    if folder is None:
        raise Damaged(path, "there is no manifest")
    weights = tensors_of(store, folder, WEIGHTS)
    check_like(folder, WEIGHTS, weights, like.point.weights)
    return {**like.point.tensors, **weights}


def train_copy(start: Start, order_seed: int) -> Copy:
    """Train a copy from the start to the end of the trial's epochs, with all SGD noise drawn from `order_seed`.

    Learning rate, momentum and epoch numbers are those of the trial. With the trial's own seed (and no separate order
    seed) the copy equals the trial, bit for bit.
    """
    lr = start.spec.lr if start.spec.control_lr is None else start.spec.control_lr
    spec = replace(start.spec, control="dense", lr=lr, seed=order_seed, order_seed=None, validate_every=None)
    if start.execution.replicas > 1:  # in a stack, as the trial
        return in_cohort_of_one(lambda: _trained(start, spec), start.execution, spec)
    with prepared(start.execution, spec.precision):
        return _trained(start, spec)


def _trained(start: Start, spec: TrialSpec) -> Copy:
    trial = Trial(spec, start.data, start.execution, start.on_epoch)
    is_fresh = start.step == 0 or start.spec.rewind_optimizer == "fresh"
    start.point.restore(trial.model, None if is_fresh else trial.learn.opt)
    if start.masks:
        assert trial.pruner is not None
        trial.pruner.apply_mask(dict(start.masks))
    epoch, skip = divmod(start.step, trial.steps_per_epoch)
    level = len(start.spec.level_sparsities) if start.masks and start.spec.order_is_new else 0
    trial.fit(epoch, start.spec.epochs, LevelClock(level=level, skip=skip))
    if trial.log.diverged:
        return Copy(tensors={}, evaluation={})
    return Copy(tensors=Snapshot(trial.model).tensors, evaluation=trial.evaluation())


def errors_between(start: Start, a: Tensors, b: Tensors, n_points: int) -> Curves:
    """Errors in percent of `n_points` evenly spaced networks on the straight line from a to b, ends included.

    Every tensor is interpolated: weights, affine weights of norms, and BatchNorm's running statistics ("raw"). For
    "recomputed", the running statistics are computed again on training data, in one order for all networks and without
    augmentation (`supermask.recompute_batchnorm`). Without BatchNorm both curves are equal. No mask is applied: what
    both ends have removed is zero on the whole line, and what only b has removed goes to zero in proportion.
    """
    model, learn = start.origin.model, start.origin.learn
    first = start.origin.dls.train
    train, like_first = first.dataset, type(first)
    loaders = {
        "train": like_first(train, EVALUATION_BATCH, None, start.execution.device),
        "test": start.origin.dls[2],
    }
    gathering = like_first(train, start.spec.batch_size, start.spec.seed, start.execution.device)
    curves: dict[tuple[str, str], list[float]] = {(split, norm): [] for split in SPLITS for norm in BATCH_NORMS}
    for alpha in alphas(n_points):
        start.point.replaced(between(a, b, alpha)).restore(model)
        networks = {"raw": model}
        if batchnorms(model):
            networks["recomputed"] = recompute_batchnorm(model, gathering)
        for split, loader in loaders.items():
            errors = {
                norm: 100 * (1 - measure(network, loader, learn.loss_func, learn.autocast).accuracy)
                for norm, network in networks.items()
            }
            for norm in BATCH_NORMS:
                curves[split, norm].append(errors.get(norm, errors["raw"]))
    return {key: tuple(errors) for key, errors in curves.items()}


def alphas(n_points: int) -> tuple[float, ...]:
    """Positions on the line, from 0 (all a) to 1 (all b)."""
    return tuple(index / (n_points - 1) for index in range(n_points))


def between(a: Tensors, b: Tensors, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) a + alpha b, exactly a and b at the ends; integers (counters) are those of the nearer end."""
    nearer = a if alpha < 0.5 else b
    return {
        name: torch.lerp(tensor, b[name], alpha) if tensor.is_floating_point() else nearer[name]
        for name, tensor in a.items()
    }


def pack_tensors(tensors: Tensors) -> bytes:
    """The tensors as the bytes of a safetensors file."""
    return save(row_major(tensors))


def _point(store: Store, path: str, fingerprint: Mapping[str, Any], origin: Trial, step: int) -> Snapshot:
    try:
        folder = store.find(path)
        if folder is None:
            raise UserError(f"{path}: found no such state; expected the trial's rewind weights; {_AGAIN}")
        for name in folder.manifest["files"]:
            store.content(folder, name)
        if step == 0:  # an initialisation is stored as weights alone, which is all there is
            initial = origin.initial_state(restarted=origin.spec.starts_over).snapshot
            weights = tensors_of(store, folder, WEIGHTS)
            check_like(folder, WEIGHTS, weights, initial.weights)
            return initial.replaced({**initial.tensors, **weights})
    except Damaged as damage:
        raise UserError(f"{damage}; {_AGAIN}") from damage
    state = States(store, fingerprint).load(folder.manifest["key"], origin.initial)
    if state is None:
        raise UserError(
            f"{path}: found only weights, as with --keep-states none; expected the optimiser's state too, to continue "
            f"training; {_AGAIN} without --keep-states none, under another --name"
        )
    return state.snapshot
