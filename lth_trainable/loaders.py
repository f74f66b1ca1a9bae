"""Data resident in memory, batches as a function of (seed, epoch): a drop-in for fastai's DataLoaders.

The order of an epoch depends on nothing but the order seed and the epoch's number, so training may stop after any epoch
and go on elsewhere. Batches are gathered on the device that holds the data; nothing is decoded or copied twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor
from torch.utils.data import TensorDataset

from lth_trainable.data import Dataset, Part
from lth_trainable.seeds import generator

EVALUATION_BATCH = 1024  # fixed: a sum's rounding depends on how it is cut up


class ResidentLoader:
    """Batches (x, y) of one part of a data set.

    order_seed: shuffle each epoch by (order_seed, epoch); None keeps the order of the data. `epoch` is the number of
    the next pass; it counts itself up, and whoever knows better sets it.
    """

    n_inp = 1
    drop_last = False

    def __init__(
        self,
        dataset: _Resident,
        batch_size: int,
        order_seed: int | None = None,
        device: Any = "cpu",
        epoch: int = 0,
    ) -> None:
        self.dataset, self.bs, self.order_seed, self.epoch = dataset, batch_size, order_seed, epoch
        self.to(device)

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def c(self) -> int:
        return self.dataset.c

    @property
    def vocab(self) -> tuple[str, ...]:
        return self.dataset.vocab

    def to(self, device: Any) -> ResidentLoader:
        self.device = torch.device(device)
        self.x, self.y = (tensor.to(self.device) for tensor in self.dataset.tensors)
        return self

    def __len__(self) -> int:
        return -(-self.n // self.bs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.order_seed is None:
            yield from zip(self.x.split(self.bs), self.y.split(self.bs), strict=True)
        else:
            for index in self.order().split(self.bs):
                yield self.x.index_select(0, index), self.y.index_select(0, index)
        self.epoch += 1

    def order(self) -> Tensor:
        """Indices (n,) of this epoch's pictures, in the order of their use."""
        assert self.order_seed is not None
        return torch.from_numpy(generator(self.order_seed, "order", self.epoch).permutation(self.n)).to(self.device)

    def one_batch(self) -> tuple[Tensor, Tensor]:
        """The first batch of the next pass."""
        index = torch.arange(min(self.bs, self.n)) if self.order_seed is None else self.order()[: self.bs]
        return self.x[index], self.y[index]

    def new(self, dataset: _Resident | None = None, shuffle: bool = False, **_: Any) -> ResidentLoader:
        """A loader over the same (or another) data set; fastai asks for one without shuffling."""
        seed = self.order_seed if shuffle else None
        return type(self)(dataset or self.dataset, self.bs, seed, self.device, self.epoch)


class _Resident(TensorDataset):
    """Tensors (n, ...) and labels (n,), with what fastai asks of a data set."""

    def __init__(self, part: Part, classes: tuple[str, ...]) -> None:
        super().__init__(torch.from_numpy(part.x), torch.from_numpy(part.y))
        self.vocab, self.c = classes, len(classes)
        self.loss_func = CrossEntropyLossFlat()

    def new_empty(self) -> _Resident:
        """No pictures, the same classes: what `learn.export` keeps of a data set."""
        shape = self.tensors[0].shape[1:]
        return _Resident(Part(x=np.zeros((0, *shape), np.float32), y=np.zeros(0, np.int64)), self.vocab)


def resident_loaders(data: Dataset, *, batch_size: int, order_seed: int, device: Any = "cpu") -> DataLoaders:
    """fastai DataLoaders over resident data: `train` (shuffled by seed and epoch), `valid`, and the test part third.

    Shapes: x (batch, channels, height, width) float32, y (batch,) int64.
    """
    train, valid, test = (_Resident(part, data.classes) for part in (data.train, data.valid, data.test))
    loaders = [
        ResidentLoader(train, batch_size, order_seed, device),
        ResidentLoader(valid, EVALUATION_BATCH, None, device),
        ResidentLoader(test, EVALUATION_BATCH, None, device),
    ]
    return DataLoaders(*loaders, device=torch.device(device))
