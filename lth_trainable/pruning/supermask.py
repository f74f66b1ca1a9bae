"""Supermasks: the accuracy of an untrained network under a mask (Zhou et al., arXiv 1905.01067, sec. 4).

    print(supermask_report(learn.model, callback.pruner, learn.dls))

Everything is evaluated on copies: the model, its buffers and flags, the loaders and every random stream stay unchanged.
BatchNorm's running statistics were gathered with other weights (or never), so each accuracy is reported twice: with the
statistics as they are, and with statistics recomputed on training data under the mask. Accuracies are fractions.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.calibration import on_device_of
from lth_trainable.pruning.controls import shuffled
from lth_trainable.pruning.layers import named_tensors, unwrapped
from lth_trainable.pruning.masks import Mask
from lth_trainable.pruning.pruner import MaskedLayers, Pruner
from lth_trainable.seeds import derive_seed, generator
from lth_trainable.streams import all_streams_put_back

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm

BATCHNORM_BATCHES = 100  # training batches to recompute statistics on; their mean settles long before that


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracies of one network with raw and with recomputed BatchNorm statistics; equal without BatchNorm."""

    raw: float
    recomputed: float


@dataclass(frozen=True, kw_only=True)
class SupermaskReport:
    """Accuracies (fractions) on the `n` images of the validation split.

    found: of the untrained network under its mask. shuffled: under a random mask with as many weights in each layer.
    signed: under its mask, with each weight replaced by its sign times the standard deviation of its layer. majority:
    of always predicting the most common class of the validation split. chance: 1 / number of classes.
    """

    found: Accuracies
    shuffled: Accuracies
    signed: Accuracies
    majority: float
    chance: float
    n: int
    sparsity_pct: float
    has_batchnorm: bool

    @property
    def below_majority(self) -> bool:
        """Whether the supermask is worse than always predicting the most common class, with either statistics."""
        return max(self.found.raw, self.found.recomputed) < self.majority

    def __str__(self) -> str:
        rows = [
            ("found mask", self.found), ("random mask, same layer densities", self.shuffled),
            ("found mask, signed constants", self.signed),
        ]  # fmt: skip
        columns = f"{'raw BatchNorm':>16}{'recomputed':>14}" if self.has_batchnorm else f"{'accuracy':>12}"
        images = f"{self.n:,} validation images (one is {100 / self.n:.2g} pp)"
        lines = [
            f"Supermask: the untrained network at {self.sparsity_pct:.2f} % sparsity, on {images}",
            f"{'':<34}{columns}",
            *(f"{name:<34}{self._cells(pair.raw, pair.recomputed)}" for name, pair in rows),
            f"{'majority class':<34}{self._cells(self.majority)}",
            f"{'chance':<34}{self._cells(self.chance)}",
            self._sentence(),
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _cells(self, raw: float, recomputed: float | None = None) -> str:
        if not self.has_batchnorm:
            return f"{100 * raw:>10.2f} %"
        return f"{100 * raw:>14.2f} %" + (f"{100 * recomputed:>12.2f} %" if recomputed is not None else "")

    def _sentence(self) -> str:
        if not self.has_batchnorm:
            return f"The supermask is {_against(self.found.raw, self.majority)}."
        if self.below_majority:
            return (
                "The supermask is below the majority class, with either statistics: always predicting the most common"
                " class is right more often."
            )
        raw, recomputed = (_against(accuracy, self.majority) for accuracy in (self.found.raw, self.found.recomputed))
        both = f"{raw}, with either statistics" if raw == recomputed else f"{raw}; with recomputed ones {recomputed}"
        start = "The supermask is" if raw == recomputed else "With BatchNorm's raw statistics the supermask is"
        return f"{start} {both}."


def evaluate(model: nn.Module, loader: Iterable[Any]) -> float:
    """Accuracy (a fraction) of a model in evaluation mode.

    loader: batches (x, ..., y) with class numbers y (batch,), from fastai or from this project. The model's output must
    be (batch, classes); anything else raises `UserError`. Model, loader and random streams stay unchanged.
    """
    outcome = _judge([model], loader)
    return outcome.correct[0] / outcome.n


def recompute_batchnorm(model: nn.Module, loader: Iterable[Any]) -> nn.Module:
    """A copy of the model whose BatchNorm statistics are the plain mean over batches of training data.

    loader: training batches; up to `BATCHNORM_BATCHES` are used, shuffled if the loader can, without a short last one.
    Only BatchNorm is in training mode, so dropout is off. A model without BatchNorm is simply copied.
    """
    return _recomputed([model], loader)[0]


def random_like(masks: Mapping[str, Mask], seed: int) -> dict[str, Mask]:
    """Random Boolean masks by name, each with the shape and the exact count of the mask of that name."""
    return {
        name: shuffled(mask, generator(seed, "supermask", index)) for index, (name, mask) in enumerate(masks.items())
    }


def signed_constants(model: nn.Module, masked: MaskedLayers, initial: Mapping[str, Tensor]) -> nn.Module:
    """A masked copy of the model in which each weight of a pruned layer is a constant with its initial sign.

    The constant is the standard deviation of all initial weights of the layer (arXiv 1905.01067, sec. 4.1). A weight
    whose initial value is zero stays zero. initial: initial tensors by name, including those of the layers.
    """
    constants = {}
    for layer in masked.layers:
        start = initial[layer.parameter_name]
        constants[layer.parameter_name] = start.sign() * start.double().std(correction=0).to(start)
    return _under(model, {**initial, **constants}, masked.in_force or {})


def supermask_report(
    model: nn.Module, masked: MaskedLayers, dls: Any, initial: Mapping[str, Tensor] | None = None, seed: int = 0
) -> SupermaskReport:
    """Accuracy of the mask alone on the validation split of `dls`, beside the accuracies that it has to beat.

    masked: the layers of `model` and their mask (`callback.pruner`). initial: the unmasked tensors to start from, by
    name (`callback.initial.state()`); None takes the layers' weights from the pruner and everything else from the
    model. seed: for the random mask and the order of the training data. Raises `UserError` if there is no mask, there
    are no initial weights, or the model is not a classifier.
    """
    if masked.in_force is None:
        raise UserError("supermask: found no mask, because nothing has been pruned yet; fit with the callback first")
    if initial is None:
        initial = masked.initial if isinstance(masked, Pruner) else {}
    missing = [layer.parameter_name for layer in masked.layers if layer.parameter_name not in initial]
    if missing:
        raise UserError(f"supermask: no initial weights of {', '.join(missing)}; pass initial={{name: tensor}}")
    raw = [
        _under(model, initial, masked.in_force),
        _under(model, initial, random_like(masked.in_force, seed)),
        signed_constants(model, masked, initial),
    ]
    has_batchnorm = bool(batchnorms(raw[0]))
    networks = raw + (_recomputed(raw, dls.train, seed) if has_batchnorm else [])
    outcome = _judge(networks, dls.valid)
    accuracies = [correct / outcome.n for correct in outcome.correct]
    found, shuffled, signed = (Accuracies(raw=accuracies[i], recomputed=accuracies[i - 3]) for i in range(3))
    return SupermaskReport(
        found=found, shuffled=shuffled, signed=signed,
        majority=int(outcome.labels.max()) / outcome.n, chance=1 / outcome.n_classes, n=outcome.n,
        sparsity_pct=masked.sparsity_pct, has_batchnorm=has_batchnorm,
    )  # fmt: skip


@dataclass(kw_only=True)
class _Outcome:
    """correct: right answers of each network. n: images. labels: images of each class, (n_classes,)."""

    correct: list[int]
    n: int
    n_classes: int
    labels: Tensor


def _judge(models: Sequence[nn.Module], loader: Iterable[Any]) -> _Outcome:
    """Evaluate all networks in one pass over the data."""
    correct, labels = [0] * len(models), torch.zeros(1, dtype=torch.int64)
    with contextlib.ExitStack() as stack, _own_randomness(0), torch.no_grad():
        for model in models:
            stack.enter_context(_evaluating(model))
        for *x, y in _batches(loader, shuffle=False):
            answers = [_checked(model(*on_device_of(model, x)), y) for model in models]
            correct = [c + int((a.argmax(1).cpu() == y.cpu()).sum()) for c, a in zip(correct, answers, strict=True)]
            size = max(answers[0].shape[1], len(labels))
            labels = torch.bincount(y.cpu(), minlength=size) + nn.functional.pad(labels, (0, size - len(labels)))
    n = int(labels.sum())
    if n == 0:
        raise UserError("supermask: found an empty validation split; expected images to measure the accuracy on")
    return _Outcome(correct=correct, n=n, n_classes=len(labels), labels=labels)


def _checked(answers: Tensor, y: Tensor) -> Tensor:
    if answers.ndim != 2 or y.ndim != 1 or y.is_floating_point():
        found = f"outputs {tuple(answers.shape)} for targets {tuple(y.shape)} of {y.dtype}"
        raise bad_value("supermask", found, "outputs (batch, classes) and one class number for each image")
    return answers


@torch.no_grad()
def _recomputed(models: Sequence[nn.Module], loader: Iterable[Any], seed: int = 0) -> list[nn.Module]:
    """Copies whose BatchNorm statistics are recomputed in one pass over the data for all of them."""
    copies = [copy.deepcopy(model) for model in models]
    norms = [norm for model in copies for norm in batchnorms(model)]
    if not norms:
        return copies
    momenta = [norm.momentum for norm in norms]
    with contextlib.ExitStack() as stack, _own_randomness(seed):
        for model in copies:
            stack.enter_context(_evaluating(model))
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        full = 0
        for index, (*x, y) in enumerate(_batches(loader, shuffle=True)):
            full = max(full, len(y))
            if len(y) < full or index == BATCHNORM_BATCHES:
                break
            for model in copies:
                model(*on_device_of(model, x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return copies


def batchnorms(model: nn.Module) -> list[BatchNorm]:
    """The BatchNorm layers that have running statistics."""
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def _under(model: nn.Module, tensors: Mapping[str, Tensor], masks: Mapping[str, Mask]) -> nn.Module:
    """A copy of the model with these tensors (by name) and masks."""
    network = copy.deepcopy(unwrapped(model))
    tensors_of = named_tensors(network)
    for name, tensor in tensors.items():
        tensors_of[name].copy_(tensor)
    for name, mask in masks.items():
        tensors_of[name].mul_(torch.from_numpy(mask).to(tensors_of[name].device))
    return network


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the context; afterwards every module has its own flag again."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _batches(loader: Any, *, shuffle: bool) -> Iterator[tuple[Tensor, ...]]:
    """The loader's batches as plain tensors, from a new loader like it, so that its own order does not advance."""
    like = loader.new(shuffle=shuffle, drop_last=False) if hasattr(loader, "new") else loader
    for batch in like:
        yield tuple(tensor.as_subclass(Tensor) for tensor in batch)


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Inside the context, Python, numpy and torch draw from `seed`; afterwards their streams continue unchanged."""
    with all_streams_put_back():
        own = derive_seed(seed, "supermask")
        random.seed(own)
        np.random.seed(own % 2**32)  # noqa: NPY002
        torch.manual_seed(own)
        yield


def _against(accuracy: float, majority: float) -> str:
    if accuracy == majority:
        return "no better than the majority class"
    return f"{'above' if accuracy > majority else 'below'} the majority class"
