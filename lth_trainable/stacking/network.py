"""A network of the user's as K networks at once, and its loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from lth_trainable.stacking.functions import StackedFunctions

Named = Mapping[str, Tensor]


class StackedNetwork:
    """Calls a copy of a module with the tensors of all slots. loss_func: mean of a batch, as in training."""

    def __init__(self, model: nn.Module, loss_func: Any) -> None:
        self.module, self.loss_func = copy.deepcopy(model), loss_func
        self.convolves = convolves(model)

    def __call__(
        self, parameters: Named, buffers: Named, images: Tensor, axis: int, seeds: Tensor
    ) -> tuple[Tensor, Named]:
        """Predictions (k, b, classes), and the buffers that the network has replaced rather than changed.

        images: see `Batches`. axis: of the members in images. seeds (k,): of dropout.
        """
        in_dims = (0, 0, axis, 0)
        found: tuple[Tensor, Named] = vmap(self._one, in_dims, randomness="error")(parameters, buffers, images, seeds)
        return found

    def _one(self, parameters: Named, buffers: Named, images: Tensor, seed: Tensor) -> tuple[Tensor, Named]:
        with StackedFunctions(seed):
            return call(self.module, parameters, buffers, images)

    def losses(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """The mean loss (k,) of each member. predictions (k, b, classes), labels (k, b)."""
        plain = self.loss_func
        if isinstance(plain, nn.CrossEntropyLoss) and plain.weight is None and plain.reduction == "mean":
            found = F.cross_entropy(
                predictions.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=plain.label_smoothing
            )
            return _means(found.view(labels.shape))
        each: Tensor = vmap(plain, randomness="error")(predictions, labels)
        return each


def _means(rows: Tensor) -> Tensor:
    """The mean of each row (k,).

    CUDA sums a row that does not begin at a multiple of 16 bytes in another order, so there rows are made columns.
    """
    return rows.t().contiguous().sum(0) / rows.shape[1] if rows.is_cuda else rows.mean(1)


def convolves(model: nn.Module) -> bool:
    """Whether a network has convolutions."""
    return any(isinstance(module, _ConvNd) for module in model.modules())


def call(module: nn.Module, parameters: Named, buffers: Named, images: Tensor) -> tuple[Tensor, Named]:
    """The prediction of a module with other tensors in place of its own, and the buffers that it has replaced."""
    tensors = {**parameters, **buffers}
    prediction: Tensor = functional_call(module, tensors, (images,))
    return prediction, {name: tensors[name] for name, value in buffers.items() if tensors[name] is not value}


def gradients(losses: Tensor, parameters: Named) -> dict[str, Tensor]:
    """The gradients of all members, by name; parameters that the loss does not depend on have none."""
    wanted = {name: value for name, value in parameters.items() if value.requires_grad}
    found = torch.autograd.grad(losses, list(wanted.values()), torch.ones_like(losses), allow_unused=True)
    return {name: gradient for name, gradient in zip(wanted, found, strict=True) if gradient is not None}
