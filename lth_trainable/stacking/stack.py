"""K networks of one shape, trained as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.stacking.run import NotStackable, Run


class Stack:
    """K networks of one shape, trained as one. Raises `NotStackable`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: ResidentLoader,
        loss_func: Any,
        precision: str,
        k: int,
    ) -> None:
        raise NotStackable("stacks are not built yet")

    def load(self, slot: int, model: nn.Module, optimizer: Any, factors: Mapping[str, Tensor]) -> None:
        """Copy a network, its optimiser's state and its mask into a slot."""
        raise NotImplementedError

    def unload(self, slot: int, model: nn.Module, optimizer: Any) -> None:
        """Copy the network of a slot and its optimiser's state back."""
        raise NotImplementedError

    def train(self, runs: Mapping[int, Run]) -> dict[int, Tensor]:
        """Train runs of equal sizes, by slot. Returns the mean loss of each batch, (batches,), by slot."""
        raise NotImplementedError

    def evaluate(self, slots: Sequence[int], loader: ResidentLoader) -> dict[int, Any]:
        """For each slot: the sum of the losses, the number of right answers, and which images are right, (n,) bool."""
        raise NotImplementedError
