"""The passes of all slots through their network, forward and backward, as functions of tensors.

What a compiler is given is one of these. It may write down once, for each combination of shapes, what a function does
with tensors, so these depend on nothing else that changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lth_trainable.stacking.network import Named, StackedNetwork, gradients

Autocast = Callable[[], AbstractContextManager[object]]
Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]  # gives a function that computes the same


class Learned(NamedTuple):
    """What a step makes before its update, of all slots.

    predictions (k, b, classes); losses (k,); gradients by name; buffers that the network has replaced, by name.
    """

    predictions: Tensor
    losses: Tensor
    gradients: Named
    replaced: Named


class Passes(NamedTuple):
    """step(parameters, buffers, images, labels, seeds): a step without its update; changes buffers in place.

    scores(parameters, buffers, images, seeds): the predictions (k, b, classes) of an evaluation, in float32. Parameters
    and buffers are by name; labels (k, b); seeds (k,) of dropout.
    """

    step: Callable[[Named, Named, Tensor, Tensor, Tensor], Learned]
    scores: Callable[[Named, Named, Tensor, Tensor], Tensor]


def passes_of(
    network: StackedNetwork, axis: int, trained: Collection[str], autocast: Autocast, compiler: Compiler | None = None
) -> Passes:
    """The passes of a network. axis: of the members in images. trained: names of the parameters with gradients."""
    step = functools.partial(_step, network, axis, trained, autocast)
    scores = functools.partial(_scores, network, axis, autocast)
    return Passes(step, scores) if compiler is None else Passes(compiler(step), compiler(scores))


def _step(
    network: StackedNetwork, axis: int, trained: Collection[str], autocast: Autocast,
    parameters: Named, buffers: Named, images: Tensor, labels: Tensor, seeds: Tensor,
) -> Learned:  # fmt: skip
    network.module.train()
    own = {name: value.detach().requires_grad_(name in trained) for name, value in parameters.items()}
    with torch.enable_grad():
        with autocast():
            predictions, replaced = network(own, buffers, images, axis, seeds)
            losses = network.losses(predictions.float(), labels)
        found = gradients(losses, own)
    replaced = {name: value.detach() for name, value in replaced.items()}
    return Learned(predictions.detach(), losses.detach(), found, replaced)


@torch.no_grad()
def _scores(
    network: StackedNetwork, axis: int, autocast: Autocast,
    parameters: Named, buffers: Named, images: Tensor, seeds: Tensor,
) -> Tensor:  # fmt: skip
    network.module.eval()
    with autocast():
        output, _ = network(parameters, buffers, images, axis, seeds)
    return output.float()
