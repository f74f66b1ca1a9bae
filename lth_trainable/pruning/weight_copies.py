"""Copies of a network's weights that optimisers and callbacks hold. They would blend old weights in after a rewind.

In an optimiser: the slow weights of Lookahead (fastai's `ranger`), master copies in float32, z of a schedule-free one.
In callbacks: moving and stochastic averages. No list of classes can be complete, so copies are recognised by shape and
value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastai.optimizer import Optimizer as FastaiOptimizer
from fastcore.foundation import L
from torch import Tensor, nn

from lth_trainable.errors import UserError
from lth_trainable.pruning.layers import unwrapped

NEAR = 0.5  # a copy is nearer to the weights than this part of their norm; a moment is about as far as zero is, 1.0
NAMES = ("slow", "master")  # what is called so is a copy, near or not
# what the states of fastai's and torch's own optimisers hold beside copies
MOMENTS = frozenset({
    "grad_avg", "sqr_avg", "step", "local_lr", "force_train", "do_wd", "momentum_buffer", "exp_avg", "exp_avg_sq",
    "max_exp_avg_sq", "exp_inf", "sum", "square_avg", "acc_delta", "prev", "step_size", "ax", "mu", "eta",
})  # fmt: skip
LIBRARIES = ("fastai.", "fastcore.", "torch.", "builtins")
OWN = "lth_trainable."
Weights = Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A tensor (`whole`) of which `part`, a view, is a copy of a weight."""

    whole: Tensor
    part: Tensor
    weight: Tensor


class OptimizerCopies:
    """The copies that an optimiser holds now, so that they follow when the weights are replaced."""

    def __init__(self, optimizer: Any, model: nn.Module) -> None:
        self.optimizer, self.model = optimizer, unwrapped(model)
        found = [_copies(tensors, orders, _is_named(name)) for name, tensors, orders in self._groups()]
        self.copies = list(itertools.chain(*found))

    @torch.no_grad()
    def follow(self) -> None:
        """Set them to the weights that the network has now, unless the optimiser has got others meanwhile."""
        held = {id(tensor) for _, tensors, _ in self._groups() for tensor in tensors}
        for copy in self.copies:
            if id(copy.whole) in held:
                copy.part.copy_(copy.weight)

    def _groups(self) -> Iterator[tuple[str, list[Tensor], list[Weights]]]:
        """The tensors of each attribute and of each key of the state, with the weights that they may be copies of."""
        orders = _orders(self.model)
        own = {id(parameter) for order in orders for parameter in order}
        listed = list(_tensors(getattr(self.optimizer, "param_lists", [])))
        if own.issuperset(map(id, listed)):
            orders = [listed, *orders]
        for part in _optimizers(self.optimizer):
            for name, value in vars(part).items():
                if name != "state":
                    yield name, [tensor for tensor in _tensors(value) if id(tensor) not in own], orders
            state = {p: values for p, values in getattr(part, "state", {}).items() if isinstance(values, Mapping)}
            for key in sorted({key for values in state.values() for key in values if isinstance(key, str)} - MOMENTS):
                there = [p for p, values in state.items() if isinstance(p, Tensor) and _is_weights(values.get(key))]
                yield key, [state[p][key] for p in there], [there]


class CallbackCopies:
    """Everything of the network's shape that a learner's callbacks hold, as it is now. A teacher may be among it."""

    def __init__(self, learn: Any) -> None:
        held = [tensor for _, weights, buffers in _held(learn) for tensor in (*weights, *buffers)]
        self.saved = [(tensor, tensor.detach().clone()) for tensor in held]

    @torch.no_grad()
    def restore(self) -> None:
        """Copy everything back, in place."""
        for tensor, saved in self.saved:
            tensor.copy_(saved)

    def check_complete(self, learn: Any) -> None:
        """Raise `UserError` if a callback has begun a copy since, which therefore cannot return."""
        known, orders = {id(tensor) for tensor, _ in self.saved}, _orders(unwrapped(learn.model))
        for where, weights, _ in _held(learn):
            if not known.issuperset(map(id, weights)) and _copies(weights, orders):
                raise UserError(
                    f"rewind: found a copy of the weights in {where} that began after the epoch to rewind to; expected"
                    " none, because it would keep weights of before the rewind; let it begin with the fit, or after"
                    " the last prune"
                )


def is_held(learn: Any) -> bool:
    """Whether a callback holds exactly the weights that the network has: its average has been loaded into it."""
    parameters = _orders(unwrapped(learn.model))
    found = [_paired(tensors, order) for _, tensors, _ in _held(learn) for order in parameters]
    return any(pairs and all(torch.equal(pair.part.to(pair.weight), pair.weight) for pair in pairs) for pairs in found)


def _orders(model: nn.Module) -> list[Sequence[Tensor]]:
    """The orders in which others list the parameters of a network."""
    every = list(model.parameters())
    return [[parameter for parameter in every if parameter.requires_grad], every]


def _optimizers(optimizer: Any) -> list[Any]:
    """An optimiser and those that it wraps."""
    found = [] if optimizer is None else [optimizer]
    for part in found:
        inner = [value for value in vars(part).values() if isinstance(value, torch.optim.Optimizer | FastaiOptimizer)]
        found += [value for value in inner if all(value is not known for known in found)]
    return found


def _held(learn: Any) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """Where callbacks hold tensors that match the network's parameters one by one; these, and buffers beside them."""
    network = unwrapped(learn.model)
    own = {id(tensor) for tensor in itertools.chain(network.parameters(), network.buffers())}
    own |= {id(p) for part in _optimizers(learn.opt) for p in _tensors(getattr(part, "param_lists", []))}
    orders = _orders(network)
    for callback in [cb for cb in learn.cbs if not type(cb).__module__.startswith(OWN)]:
        for place, value in _attributes(callback, type(callback).__name__):
            buffers = list(value.buffers()) if isinstance(value, nn.Module) else []
            found: list[Tensor] = [*value.parameters()] if isinstance(value, nn.Module) else [*_tensors(value)]
            if not own & set(map(id, found)) and any(_paired(found, order) for order in orders):
                yield place, found, buffers


def _attributes(holder: Any, name: str, depth: int = 1) -> Iterator[tuple[str, Any]]:
    """The attributes of an object that may hold tensors, and those of objects in them that are of no library."""
    for key, value in vars(holder).items():
        place = f"{name}.{key}"
        if isinstance(value, nn.Module | list | tuple | L | Mapping):
            yield place, value
        elif depth and hasattr(value, "__dict__") and not type(value).__module__.startswith(LIBRARIES):
            yield from _attributes(value, place, depth - 1)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of the size of weights in nested lists and dicts. Nothing else is read: it may be a loader."""
    if _is_weights(value):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple | L):
        for each in value:
            yield from _tensors(each)


def _is_weights(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0


def _is_named(name: str) -> bool:
    return any(word in name for word in NAMES)


def _paired(tensors: Weights, weights: Weights) -> list[Copy]:
    """Each tensor with a weight, in their order; a flat tensor with several. Empty if they do not match."""
    found: list[Copy] = []
    left = list(weights)
    for tensor in tensors:
        if left and tensor.shape == left[0].shape:
            found.append(Copy(whole=tensor, part=tensor, weight=left.pop(0)))
            continue
        start = 0
        while left and tensor.ndim == 1 and start + left[0].numel() <= tensor.numel():
            weight = left.pop(0)
            part = tensor.detach()[start : start + weight.numel()].view(weight.shape)
            found.append(Copy(whole=tensor, part=part, weight=weight))
            start += weight.numel()
        if start != tensor.numel():
            return []
    return found if not left else []


@torch.no_grad()
def _copies(tensors: Weights, orders: Sequence[Weights], is_sure: bool = False) -> list[Copy]:
    """The tensors with the weights that they are copies of; empty if they are something else."""
    for order in orders:
        found = _paired(tensors, order)
        apart = sum(float((copy.part.float() - copy.weight.float()).square().sum()) for copy in found)
        size = sum(float(copy.weight.float().square().sum()) for copy in found)
        if found and (is_sure or apart < NEAR**2 * size):
            return found
    return []
