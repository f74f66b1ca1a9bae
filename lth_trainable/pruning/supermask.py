"""Supermasks: how well an untrained network answers through a mask alone (Zhou et al., arXiv 1905.01067, sec. 4).

    print(supermask_report(learn.model, callback.pruner, learn.dls))

Whatever is tried is tried on copies: the model, its buffers and flags, the loaders and every random stream stay as
they were. BatchNorm's running statistics were gathered on other weights (or never), so each accuracy is given twice:
with the statistics as they are, and with statistics gathered anew on training data under the mask. Accuracies are parts
of one.
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
from lth_trainable.pruning.controls import shuffled
from lth_trainable.pruning.layers import bare
from lth_trainable.pruning.masks import Mask
from lth_trainable.pruning.pruner import MaskedLayers, Pruner
from lth_trainable.seeds import derive_seed, generator

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm

BATCHNORM_BATCHES = 100  # training batches that statistics are gathered on: their mean has settled long before


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Of one network: with BatchNorm's statistics as they are, and recomputed (equal where there is no BatchNorm)."""

    raw: float
    recomputed: float


@dataclass(frozen=True, kw_only=True)
class SupermaskReport:
    """Accuracies, parts of one, on the `n` pictures of the validation part.

    found: the untrained network under its mask. shuffled: under a random mask with as many weights in each layer.
    signed: under its mask, each weight replaced by its sign times the standard deviation of its layer. majority: of
    always answering the commonest class of the validation part. chance: of guessing, one in the number of classes.
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
        """Whether the supermask answers worse than the commonest class, whichever statistics it uses."""
        return max(self.found.raw, self.found.recomputed) < self.majority

    def __str__(self) -> str:
        rows = [
            ("found mask", self.found), ("random mask, same layer densities", self.shuffled),
            ("found mask, signed constants", self.signed),
        ]  # fmt: skip
        columns = f"{'raw BatchNorm':>16}{'recomputed':>14}" if self.has_batchnorm else f"{'accuracy':>12}"
        pictures = f"{self.n:,} validation pictures (one is {100 / self.n:.2g} pp)"
        lines = [
            f"Supermask: the untrained network at {self.sparsity_pct:.2f} % sparsity, on {pictures}",
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
                "The supermask is below the majority class, with either statistics: always answering the commonest"
                " class is right more often."
            )
        raw, recomputed = (_against(part, self.majority) for part in (self.found.raw, self.found.recomputed))
        both = f"{raw}, with either statistics" if raw == recomputed else f"{raw}; with recomputed ones {recomputed}"
        start = "The supermask is" if raw == recomputed else "With BatchNorm's raw statistics the supermask is"
        return f"{start} {both}."


def evaluate(model: nn.Module, loader: Iterable[Any]) -> float:
    """Accuracy, a part of one, in evaluation mode.

    loader: batches (x, ..., y), y of class numbers (batch,); the model's output is (batch, classes). Raises `UserError`
    for anything else. The model, the loader (fastai's or ours) and the random streams stay as they were.
    """
    outcome = _judge([model], loader)
    return outcome.correct[0] / outcome.n


def recompute_batchnorm(model: nn.Module, loader: Iterable[Any]) -> nn.Module:
    """A copy of the model whose BatchNorm statistics are the plain mean over batches of training data.

    loader: training batches, of which up to `BATCHNORM_BATCHES` are seen, shuffled where the loader can; a short last
    batch is left out. Only BatchNorm is in training mode, so dropout is off. A plain copy for a model without it.
    """
    return _recomputed([model], loader)[0]


def random_like(masks: Mapping[str, Mask], seed: int) -> dict[str, Mask]:
    """Random masks, Boolean, each of the shape and with exactly the count of the mask of its name."""
    return {
        name: shuffled(mask, generator(seed, "supermask", index)) for index, (name, mask) in enumerate(masks.items())
    }


def signed_constants(model: nn.Module, masked: MaskedLayers, initial: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model at its initial tensors, each masked layer's weights made constants of their initial signs.

    The constant is the standard deviation of all initial weights of the layer (arXiv 1905.01067, sec. 4.1); a weight
    that starts at zero stays there. initial: tensors by name; those of the layers must be among them.
    """
    constants = {}
    for layer in masked.layers:
        start = initial[layer.parameter_name]
        constants[layer.parameter_name] = start.sign() * start.double().std(correction=0).to(start)
    return _under(model, {**initial, **constants}, masked.in_force or {})


def supermask_report(
    model: nn.Module, masked: MaskedLayers, dls: Any, initial: Mapping[str, Tensor] | None = None, seed: int = 0
) -> SupermaskReport:
    """What the mask alone is worth, on the validation part of `dls`, beside what it has to beat.

    masked: the layers of `model` and their mask (`callback.pruner`). initial: the unmasked tensors to start from, by
    name (`callback.initial.state()`); None takes the layers' weights from the pruner and all else from the model.
    seed: of the random mask and of the order of the training data. Raises `UserError` where there is no mask, no
    initial weights, or no classes.
    """
    if masked.in_force is None:
        raise UserError("supermask: nothing has been pruned yet, so there is no mask to look through")
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
    parts = [correct / outcome.n for correct in outcome.correct]
    found, shuffled, signed = (Accuracies(raw=parts[i], recomputed=parts[i - 3]) for i in range(3))
    return SupermaskReport(
        found=found, shuffled=shuffled, signed=signed,
        majority=int(outcome.labels.max()) / outcome.n, chance=1 / outcome.n_classes, n=outcome.n,
        sparsity_pct=masked.sparsity_pct, has_batchnorm=has_batchnorm,
    )  # fmt: skip


@dataclass(kw_only=True)
class _Outcome:
    """Right answers of each network, pictures, classes, and the pictures of each class (n_classes,)."""

    correct: list[int]
    n: int
    n_classes: int
    labels: Tensor


def _judge(models: Sequence[nn.Module], loader: Iterable[Any]) -> _Outcome:
    """All networks on one pass over the data."""
    correct, labels = [0] * len(models), torch.zeros(1, dtype=torch.int64)
    with contextlib.ExitStack() as stack, _own_randomness(0), torch.no_grad():
        for model in models:
            stack.enter_context(_evaluating(model))
        for *x, y in _batches(loader, shuffle=False):
            answers = [_checked(model(*_on_device_of(model, x)), y) for model in models]
            correct = [c + int((a.argmax(1).cpu() == y.cpu()).sum()) for c, a in zip(correct, answers, strict=True)]
            size = max(answers[0].shape[1], len(labels))
            labels = torch.bincount(y.cpu(), minlength=size) + nn.functional.pad(labels, (0, size - len(labels)))
    n = int(labels.sum())
    if n == 0:
        raise UserError("supermask: the validation part is empty, so there is no accuracy to report")
    return _Outcome(correct=correct, n=n, n_classes=len(labels), labels=labels)


def _checked(answers: Tensor, y: Tensor) -> Tensor:
    if answers.ndim != 2 or y.ndim != 1 or y.is_floating_point():
        found = f"outputs {tuple(answers.shape)} for targets {tuple(y.shape)} of {y.dtype}"
        raise bad_value("supermask", found, "outputs (batch, classes) and one class number a picture")
    return answers


@torch.no_grad()
def _recomputed(models: Sequence[nn.Module], loader: Iterable[Any], seed: int = 0) -> list[nn.Module]:
    """Copies whose BatchNorm statistics are gathered on one pass over the data for all of them."""
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
                model(*_on_device_of(model, x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return copies


def batchnorms(model: nn.Module) -> list[BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def _under(model: nn.Module, tensors: Mapping[str, Tensor], masks: Mapping[str, Mask]) -> nn.Module:
    """A copy of the model with these tensors, by name, under the masks."""
    network = copy.deepcopy(bare(model))
    places = {
        **dict(network.named_parameters(remove_duplicate=False)), **dict(network.named_buffers(remove_duplicate=False))
    }  # fmt: skip
    for name, tensor in tensors.items():
        places[name].copy_(tensor)
    for name, mask in masks.items():
        places[name].mul_(torch.from_numpy(mask).to(places[name].device))
    return network


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, every module's own flag as it was afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _batches(loader: Any, *, shuffle: bool) -> Iterator[tuple[Tensor, ...]]:
    """The loader's batches as plain tensors; another loader like it is asked, so that its order does not move."""
    like = loader.new(shuffle=shuffle, drop_last=False) if hasattr(loader, "new") else loader
    for batch in like:
        yield tuple(part.as_subclass(Tensor) for part in batch)


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Streams of Python, numpy and torch that start from `seed` within and go on afterwards as if nothing had been."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        own = derive_seed(seed, "supermask")
        random.seed(own)
        np.random.seed(own % 2**32)  # noqa: NPY002
        torch.manual_seed(own)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _on_device_of(model: nn.Module, x: Sequence[Tensor]) -> list[Tensor]:
    parameter = next(model.parameters(), None)
    return [part.to(parameter.device) if parameter is not None else part for part in x]


def _against(part: float, majority: float) -> str:
    if part == majority:
        return "no better than the majority class"
    return f"{'above' if part > majority else 'below'} the majority class"
