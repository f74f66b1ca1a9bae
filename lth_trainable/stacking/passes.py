"""The passes of all slots through their network, forward and backward, as functions of tensors.

What a compiler is given is one of these. It may write down once, for each combination of shapes, what a function does
with tensors, so these depend on nothing else that changes.
"""

from __future__ import annotations

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


class Passes:
    """The passes of a network. axis: of the members in images. trained: names of the parameters with gradients.

    step(parameters, buffers, images, labels, seeds), scores(parameters, buffers, images, seeds): the first two by name;
    labels (k, b); seeds (k,) of dropout.
    """

    def __init__(
        self, network: StackedNetwork, axis: int, trained: Collection[str], autocast: Autocast,
        compiler: Compiler | None = None,
    ) -> None:  # fmt: skip
        self._network, self._axis, self._trained, self._autocast = network, axis, trained, autocast
        self.step: Callable[[Named, Named, Tensor, Tensor, Tensor], Learned] = self._step
        self.scores: Callable[[Named, Named, Tensor, Tensor], Tensor] = self._scores
        if compiler is not None:
            self.step, self.scores = compiler(self._step), compiler(self._scores)

    def _step(self, parameters: Named, buffers: Named, images: Tensor, labels: Tensor, seeds: Tensor) -> Learned:
        """A step without its update. Buffers are changed in place, but for those that are replaced."""
        self._network.module.train()
        own = {name: value.detach().requires_grad_(name in self._trained) for name, value in parameters.items()}
        with torch.enable_grad():
            with self._autocast():
                predictions, replaced = self._network(own, buffers, images, self._axis, seeds)
                losses = self._network.losses(predictions.float(), labels)
            found = gradients(losses, own)
        replaced = {name: value.detach() for name, value in replaced.items()}
        return Learned(predictions.detach(), losses.detach(), found, replaced)

    @torch.no_grad()
    def _scores(self, parameters: Named, buffers: Named, images: Tensor, seeds: Tensor) -> Tensor:
        """The predictions (k, b, classes) of an evaluation, in float32. It changes nothing."""
        self._network.module.eval()
        with self._autocast():
            output, _ = self._network(parameters, buffers, images, self._axis, seeds)
        return output.float()
