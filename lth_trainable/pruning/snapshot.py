"""A copy of a network and its optimiser at one point of training, which a rewind restores.

It holds every parameter, every buffer and the optimiser's state. A rewind sets nothing to a default: BatchNorm's affine
weights, its running statistics, and buffers that `state_dict` leaves out all get their earlier values back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lth_trainable.pruning.layers import named_tensors, plain_name, unwrapped
from lth_trainable.pruning.weight_copies import CallbackCopies


class Snapshot:
    """A copy of a model's tensors, and of the optimiser's state if an optimiser is passed.

    beside: what the learner's callbacks hold of the network's shape (averages), if that returns with it.
    """

    beside: CallbackCopies | None = None

    def __init__(self, model: nn.Module, optimizer: Any = None, tensors: dict[str, Tensor] | None = None) -> None:
        """tensors: what to hold in place of copies of the model's own, by the same names."""
        if tensors is None:
            tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
        self.tensors = tensors
        self.optimizer = copy.deepcopy(optimizer.state_dict()) if optimizer is not None else None
        self._persistent = [plain_name(name) for name in unwrapped(model).state_dict()]

    @classmethod
    def present(cls, model: nn.Module, optimizer: Any = None) -> Snapshot:
        """What a model, and an optimiser if one is passed, hold now, without copies: it changes with them."""
        found = cls(model, tensors={name: tensor.detach() for name, tensor in named_tensors(model).items()})
        found.optimizer = optimizer.state_dict() if optimizer is not None else None
        return found

    @classmethod
    def of(cls, model: nn.Module, tensors: Mapping[str, Tensor]) -> Snapshot:
        """A snapshot with the tensors of an earlier `state()`, for a model with the same tensors."""
        return cls(model).replaced(tensors)

    def replaced(
        self, tensors: Mapping[str, Tensor], optimizer_state: Mapping[int, Mapping[str, Tensor]] | None = None
    ) -> Snapshot:
        """A snapshot of the same model and optimiser with other values."""
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
        """Copy everything back, in place. With `optimizer`, restore the optimiser's state too."""
        for name, tensor in named_tensors(model).items():
            tensor.copy_(self.tensors[name])
        if optimizer is not None:
            assert self.optimizer is not None, "this snapshot holds no optimiser state"
            optimizer.load_state_dict(copy.deepcopy(self.optimizer))

    @property
    def weights(self) -> dict[str, Tensor]:
        """What `model.state_dict()` held when the snapshot was taken."""
        return {name: self.tensors[name] for name in self._persistent}

    @property
    def transient(self) -> dict[str, Tensor]:
        """Buffers that `model.state_dict()` leaves out."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self._persistent}
