"""Data resident in memory, batches as a function of (seed, epoch): a drop-in for fastai's DataLoaders.

The order of an epoch depends on nothing but the order seed and the epoch's number, so training may stop after any epoch
and go on elsewhere. Batches are gathered on the device that holds the data. Nothing is decoded or copied twice: a
process has one copy of a part on a device, which all its trials share, as long as it has the part.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor
from torch.utils.data import TensorDataset

from lth_trainable.data.augment import AUGMENTATIONS, Draws
from lth_trainable.data.datasets import Dataset, Split
from lth_trainable.seeds import generator

EVALUATION_BATCH = 1024  # fixed: a sum's rounding depends on how it is cut up

_copies: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}


def resident(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pictures and labels of a part on a device; on the CPU the part's own memory."""
    own = torch.from_numpy(split.x), torch.from_numpy(split.y)
    if device.type == "cpu":
        return own
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    key = (id(split), device)  # an id is given again only when the part, and with it the copy, is gone
    if key not in _copies:
        _copies[key] = own[0].to(device), own[1].to(device)
        weakref.finalize(split, _copies.pop, key, None)
    return _copies[key]


class ResidentLoader:
    """Batches (x, y) of one part of a data set.

    order_seed: shuffle each epoch by (order_seed, epoch); None keeps the order of the data. augment: a name of
    `AUGMENTATIONS`, or "none"; drawn by the same. `epoch` is the number of the next pass; it counts itself up, and
    whoever knows better sets it. `level`: names the stream too, unless 0. `skip`: batches that the next pass leaves out
    at its beginning.
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
        augment: str = "none",
    ) -> None:
        self.dataset, self.bs, self.order_seed, self.epoch = dataset, batch_size, order_seed, epoch
        self.augment, self.level, self.skip = augment, 0, 0
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
        self.x, self.y = resident(self.dataset.split, self.device)
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole pass."""
        return -(-self.n // self.bs)

    def __len__(self) -> int:
        """Batches of the next pass."""
        return self.steps_per_epoch - self.skip

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.order_seed is None:
            yield from zip(self.x.split(self.bs), self.y.split(self.bs), strict=True)
        else:
            draws = self.draws()
            for index in self.order().split(self.bs)[self.skip :]:
                yield self._batch(index, draws)
        self.epoch += 1
        self.skip = 0

    def order(self) -> Tensor:
        """Indices (n,) of this epoch's pictures, in the order of their use."""
        return torch.from_numpy(self._stream("order").permutation(self.n)).to(self.device)

    def draws(self) -> Draws | None:
        """What happens to each picture in this epoch; None without augmentation."""
        if self.augment == "none" or self.order_seed is None:
            return None
        return AUGMENTATIONS[self.augment].draw(self.n, self.x.shape[-1], self._stream("augment"), self.device)

    def one_batch(self) -> tuple[Tensor, Tensor]:
        """The first batch of the next pass."""
        if self.order_seed is None:
            return self.x[: self.bs], self.y[: self.bs]
        return self._batch(self.order()[: self.bs], self.draws())

    def _batch(self, index: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        x = self.x.index_select(0, index)
        return x if draws is None else draws(x, index), self.y.index_select(0, index)

    def _stream(self, purpose: str) -> np.random.Generator:
        assert self.order_seed is not None
        return generator(self.order_seed, purpose, self.epoch, *((self.level,) if self.level else ()))

    def new(self, dataset: _Resident | None = None, shuffle: bool = False, **_: Any) -> ResidentLoader:
        """A loader over the same (or another) data set; fastai asks for one without shuffling."""
        seed = self.order_seed if shuffle else None
        augment = self.augment if shuffle else "none"
        return type(self)(dataset or self.dataset, self.bs, seed, self.device, self.epoch, augment)


class _Resident(TensorDataset):
    """Tensors (n, ...) and labels (n,), with what fastai asks of a data set."""

    def __init__(self, split: Split, classes: tuple[str, ...]) -> None:
        super().__init__(torch.from_numpy(split.x), torch.from_numpy(split.y))
        self.split, self.vocab, self.c = split, classes, len(classes)
        self.loss_func = CrossEntropyLossFlat()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a pickle, in which version 0.4 has the split by the name `part`."""
        self.__dict__.update({"split" if name == "part" else name: value for name, value in state.items()})

    def new_empty(self) -> _Resident:
        """No pictures, the same classes: what `learn.export` keeps of a data set."""
        shape = self.tensors[0].shape[1:]
        return _Resident(Split(x=np.zeros((0, *shape), np.float32), y=np.zeros(0, np.int64)), self.vocab)


def resident_loaders(
    data: Dataset, *, batch_size: int, order_seed: int, device: Any = "cpu", augment: str = "none"
) -> DataLoaders:
    """fastai DataLoaders over resident data: `train` (shuffled by seed and epoch), `valid`, and the test part third.

    Shapes: x (batch, channels, height, width) float32, y (batch,) int64.
    """
    train, valid, test = (_Resident(split, data.classes) for split in (data.train, data.valid, data.test))
    loaders = [
        ResidentLoader(train, batch_size, order_seed, device, augment=augment),
        ResidentLoader(valid, EVALUATION_BATCH, None, device),
        ResidentLoader(test, EVALUATION_BATCH, None, device),
    ]
    return DataLoaders(*loaders, device=torch.device(device))
