"""Loaders for data resident in memory: a drop-in replacement for fastai's DataLoaders.

The order of an epoch depends only on the order seed and the epoch's number, so training may stop after any epoch and
continue elsewhere. Batches are gathered on the device that holds the data. A process has one copy of a split on each
device, which all its trials share, for as long as the split exists. `show_batch`, `learn.show_results`,
`learn.predict` and fastai's interpretations work as with fastai's own loaders.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.losses import CrossEntropyLossFlat
from torch import Tensor
from torch.utils.data import TensorDataset

from lth_trainable.data.augment import AUGMENTATIONS, Draws
from lth_trainable.data.datasets import Dataset, Pixels, Split
from lth_trainable.data.items import split_of
from lth_trainable.data.passes import Passes
from lth_trainable.data.showing import Items, ShowsImages
from lth_trainable.data.splits import EVALUATION_BATCH

_copies: dict[tuple[int, torch.device, bool], tuple[Tensor, Tensor]] = {}


def resident(split: Split, device: torch.device, channels_last: bool = False) -> tuple[Tensor, Tensor]:
    """Images and labels of a split on a device. On the CPU these use the memory of the split itself.

    channels_last: on a GPU, lay images (n, c, h, w) out with the channels of a pixel side by side.
    """
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    if device.type == "cpu":
        return x, y
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    key = (id(split), device, channels_last)  # an id is reused only after the split, and with it the copy, is gone
    if key not in _copies:
        x = x.to(device)
        _copies[key] = x.contiguous(memory_format=torch.channels_last) if channels_last else x, y.to(device)
        weakref.finalize(split, _copies.pop, key, None)
    return _copies[key]


class ResidentLoader(ShowsImages, Passes):
    """Batches (x, y) of one split of a data set.

    augment: a name of `AUGMENTATIONS`, drawn from the same seed and epoch as the order, or "none". channels_last: see
    `resident`. The rest: `Passes`.
    """

    channels_last = False  # pickles of version 0.4 lack it
    _drawn: tuple[Any, Tensor] | None = None  # an order that was drawn ahead, after seed and place of its pass

    def __init__(
        self,
        dataset: _Resident,
        batch_size: int,
        order_seed: int | None = None,
        device: Any = "cpu",
        epoch: int = 0,
        augment: str = "none",
        channels_last: bool = False,
    ) -> None:
        self.augment, self.channels_last = augment, channels_last
        super().__init__(dataset, batch_size, order_seed, device, epoch)

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def c(self) -> int:
        return self.dataset.c

    @property
    def items(self) -> Items:
        """The images with their labels, in the order of the data."""
        return Items(self.x, self.y)

    def get_idxs(self) -> list[int]:
        """The order of predictions, which is that of the data; fastai asks for it."""
        return list(range(self.n))

    def to(self, device: Any) -> ResidentLoader:
        super().to(device)
        self.x, self.y = resident(self.dataset.split, self.device, self.channels_last)
        return self

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if not self.dataset.labelled:
            yield from zip(self.x.split(self.bs), strict=True)
        elif self.order_seed is None:
            yield from zip(self.x.split(self.bs), self.y.split(self.bs), strict=True)
        else:
            draws = self.draws()
            for index in self.order().split(self.bs)[self.skip :]:
                yield self.batch(index, draws)
        self.end_pass()

    def end_pass(self) -> None:
        """Go to the next pass."""
        self.epoch += 1
        self.skip = 0

    def order(self) -> Tensor:
        """Indices (n,) of the images, in their order in this epoch."""
        drawn, self._drawn = self._drawn, None
        if drawn is None or drawn[0] != (self.order_seed, self.place):
            return torch.from_numpy(self.stream("order").permutation(self.n)).to(self.device)
        return drawn[1].to(self.device)

    def draw_ahead(self) -> None:
        """Draw the order of the pass after the next one already now, on the CPU; while a GPU works, that costs nothing.

        It is used if that pass comes next.
        """
        epoch, self.epoch = self.epoch, self.epoch + 1
        try:
            key = self.order_seed, self.place
            if self._drawn is None or self._drawn[0] != key:
                self._drawn = key, torch.from_numpy(self.stream("order").permutation(self.n))
        finally:
            self.epoch = epoch

    def draws(self) -> Draws | None:
        """The augmentation of each image in this epoch; None without augmentation."""
        if self.augment == "none" or self.order_seed is None:
            return None
        return AUGMENTATIONS[self.augment].draw(self.n, self.x.shape[-1], self.stream("augment"), self.device)

    def one_batch(self) -> tuple[Tensor, Tensor]:
        """The first batch of the next pass."""
        if self.order_seed is None:
            return self.x[: self.bs], self.y[: self.bs]
        return self.batch(self.order()[: self.bs], self.draws())

    def batch(self, index: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        """Images and labels of these indices (batch,), augmented; images are laid out as those of the loader."""
        if self.channels_last:
            x = self.x.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
        else:
            x = self.x.index_select(0, index)
        return x if draws is None else draws(x, index), self.y.index_select(0, index)

    def new(self, dataset: Any = None, shuffle: bool = False, **_: Any) -> ResidentLoader:
        """A loader over the same (or another) data set; fastai calls this for a loader without shuffling.

        dataset: may be a list of items, see `split_of`; `learn.predict` and `dls.test_dl` hand over such lists.
        """
        if dataset is not None and not isinstance(dataset, _Resident):
            dataset = self.dataset.of_items(dataset)
        seed = self.order_seed if shuffle else None
        augment = self.augment if shuffle else "none"
        found = self.dataset if dataset is None else dataset
        return type(self)(found, self.bs, seed, self.device, self.epoch, augment, self.channels_last)

    def _versions_of_one(self, n: int) -> tuple[Tensor, Tensor]:
        """The first image of the order, as it is in the next `n` epochs."""
        first, epoch, found = self.order()[:1] if self.order_seed is not None else torch.tensor([0]), self.epoch, []
        try:
            for self.epoch in range(epoch, epoch + n):
                found.append(self.batch(first.to(self.device), self.draws()))
        finally:
            self.epoch = epoch
        return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


class _Resident(TensorDataset):
    """Tensors (n, ...) and labels (n,), with the attributes that fastai expects of a data set."""

    pixels: Pixels | None = None
    labelled = True

    def __init__(
        self, split: Split, classes: tuple[str, ...], pixels: Pixels | None = None, labelled: bool = True
    ) -> None:
        super().__init__(torch.from_numpy(split.x), torch.from_numpy(split.y))
        self.split, self.vocab, self.c = split, classes, len(classes)
        self.pixels, self.labelled = pixels, labelled
        self.loss_func = CrossEntropyLossFlat()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle. Pickles of version 0.4 call the split `part`."""
        self.__dict__.update({"split" if name == "part" else name: value for name, value in state.items()})

    def new_empty(self) -> _Resident:
        """A data set without images and with the same classes, for `learn.export`."""
        shape = self.tensors[0].shape[1:]
        empty = Split(x=np.zeros((0, *shape), np.float32), y=np.zeros(0, np.int64))
        return _Resident(empty, self.vocab, self.pixels)

    def of_items(self, items: Sequence[Any]) -> _Resident:
        """A data set of other images, with the same classes."""
        split, labelled = split_of(items, tuple(self.tensors[0].shape[1:]), self.pixels)
        return _Resident(split, self.vocab, self.pixels, labelled)


def resident_loaders(
    data: Dataset, *, batch_size: int, order_seed: int, device: Any = "cpu", augment: str = "none",
    channels_last: bool = False,
) -> DataLoaders:  # fmt: skip
    """fastai DataLoaders over resident data: `train` (shuffled by seed and epoch), `valid`, and the test split third.

    Shapes: x (batch, channels, height, width) float32, y (batch,) int64.
    """
    train, valid, test = (_Resident(split, data.classes, data.pixels) for split in (data.train, data.valid, data.test))
    loaders = [
        ResidentLoader(train, batch_size, order_seed, device, augment=augment, channels_last=channels_last),
        ResidentLoader(valid, EVALUATION_BATCH, None, device, channels_last=channels_last),
        ResidentLoader(test, EVALUATION_BATCH, None, device, channels_last=channels_last),
    ]
    return DataLoaders(*loaders, device=torch.device(device))
