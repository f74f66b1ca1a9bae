"""One epoch of data in memory, laid out on the device beforehand, so that its batches need nothing of Python."""

from __future__ import annotations

import torch
from torch import Tensor

from lth_trainable.data.loaders import ResidentLoader


class DeviceEpoch:
    """The order and the augmentation of an epoch, at addresses that stay the same, and the number of the next batch.

    `batch` gives the batches of the loader, bit for bit. What it runs can be captured as a CUDA graph and replayed,
    since it reads from the device which batch is next. number: (1,) int64, counted by whoever takes batches.
    """

    def __init__(self, loader: ResidentLoader) -> None:
        self.loader = loader
        self.full = loader.n // loader.bs  # number of batches that are not cut off by the end of the data
        self._order = torch.empty(loader.n, dtype=torch.int64, device=loader.device)
        self._draws = loader.draws()
        self.number = torch.zeros(1, dtype=torch.int64, device=loader.device)

    def begin(self) -> None:
        """Take the order and the draws of the loader's next pass, from its first batch on."""
        self._order.copy_(self.loader.order())
        draws = self.loader.draws()
        if self._draws is not None and draws is not None:
            self._draws.replace(draws)
        self.number.fill_(self.loader.skip)

    def size(self, number: int) -> int:
        """Number of images in a batch of the epoch."""
        return self.loader.bs if number < self.full else self.loader.n - self.full * self.loader.bs

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """The next batch. size: its number of images; only the last batch may be smaller than the others."""
        n = self.full * self.loader.bs
        if size < self.loader.bs:
            return self.loader.batch(self._order[n:], self._draws)
        index = self._order[:n].view(self.full, -1).index_select(0, self.number).view(-1)
        return self.loader.batch(index, self._draws)

    @property
    def tensors(self) -> list[Tensor]:
        """What batches are made of."""
        of_draws = [] if self._draws is None else self._draws.tensors
        return [self.loader.x, self.loader.y, self._order, self.number, *of_draws]
