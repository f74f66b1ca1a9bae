"""What loaders of a trial have in common: passes that are numbered, may begin at any batch, and name random streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from lth_trainable.seeds import generator


class Passes(ABC):
    """A loader of `n` items in batches of `bs`, with the attributes that fastai expects of one.

    order_seed: shuffle each pass by (order_seed, epoch); None keeps the order of the data. `epoch` is the number of the
    next pass; it counts up by itself and may be set. `level`: also names the random streams, unless it is 0. `skip`:
    number of batches that the next pass omits at its start.
    """

    n_inp = 1
    drop_last = False

    def __init__(self, dataset: Any, batch_size: int, order_seed: int | None, device: Any, epoch: int) -> None:
        self.dataset, self.bs, self.order_seed, self.epoch = dataset, batch_size, order_seed, epoch
        self.level, self.skip = 0, 0
        self.to(device)

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of items."""

    def to(self, device: Any) -> Any:
        self.device = torch.device(device)
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in a complete pass."""
        return -(-self.n // self.bs)

    def __len__(self) -> int:
        """Number of batches in the next pass."""
        return self.steps_per_epoch - self.skip

    @property
    def place(self) -> tuple[int, ...]:
        """Epoch and level of the next pass, as they name its random streams."""
        return self.epoch, *((self.level,) if self.level else ())

    def stream(self, purpose: str) -> Any:
        """The random numbers of the next pass for this purpose, a NumPy generator; only with an `order_seed`."""
        assert self.order_seed is not None
        return generator(self.order_seed, purpose, *self.place)
