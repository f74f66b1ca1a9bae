"""What returns at a rewind: every parameter, every buffer, and the optimiser's state.

Nothing is set to a default: BatchNorm's affine weights and running statistics, and buffers that `state_dict` leaves
out, return to the values they had.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Snapshot:
    """A copy of a model's tensors, and of the optimiser's state where one is given."""

    def __init__(self, model: nn.Module, optimizer: Any = None) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
        self.optimizer = copy.deepcopy(optimizer.state_dict()) if optimizer is not None else None
        self._persistent = list(model.state_dict())

    @classmethod
    def of(cls, model: nn.Module, tensors: Mapping[str, Tensor]) -> Snapshot:
        """The snapshot of `state()`, for a model of the same shape."""
        return cls(model).replaced(tensors)

    def replaced(
        self, tensors: Mapping[str, Tensor], optimizer_state: Mapping[int, Mapping[str, Tensor]] | None = None
    ) -> Snapshot:
        """A snapshot of the same model and optimiser that holds other values."""
        other = copy.copy(self)
        other.tensors = {name: tensors[name].to(like) for name, like in self.tensors.items()}
        if optimizer_state is not None and self.optimizer is not None:
            other.optimizer = {**self.optimizer, "state": {index: dict(v) for index, v in optimizer_state.items()}}
        return other

    def state(self) -> dict[str, Tensor]:
        """Every tensor, by name."""
        return self.tensors

    @torch.no_grad()
    def restore(self, model: nn.Module, optimizer: Any = None) -> None:
        """Copy everything back, in place. The optimiser returns too where one is given and was taken."""
        for name, tensor in _tensors(model):
            tensor.copy_(self.tensors[name])
        if optimizer is not None:
            assert self.optimizer is not None, "this snapshot was taken without an optimiser"
            optimizer.load_state_dict(copy.deepcopy(self.optimizer))

    @property
    def weights(self) -> dict[str, Tensor]:
        """What `model.state_dict()` held when the snapshot was taken."""
        return {name: self.tensors[name] for name in self._persistent}

    @property
    def transient(self) -> dict[str, Tensor]:
        """Buffers that `model.state_dict()` leaves out."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self._persistent}


def _tensors(model: nn.Module) -> itertools.chain[tuple[str, Tensor]]:
    return itertools.chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
