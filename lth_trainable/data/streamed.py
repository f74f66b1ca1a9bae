"""Loaders for data that are not kept in memory: a user's own fastai or torch DataLoader makes the items and batches.

The user's transforms, collation and worker processes stay. Order and randomness are the trial's: the order of an epoch
is drawn from (order seed, epoch), as for resident data, and the global streams are seeded by name before each image
and each batch. So a batch is the same whether the epoch starts at it, how many workers there are, and in which process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset as TorchDataset

from lth_trainable.data.feeds import Feed
from lth_trainable.data.passes import Passes
from lth_trainable.data.pixels import is_not_an_image, not_decoded
from lth_trainable.data.splits import EVALUATION_BATCH, no_augmentation
from lth_trainable.errors import UserError, bad_value
from lth_trainable.seeds import derive_seed
from lth_trainable.short_paths import keep_sockets_short
from lth_trainable.streams import seed_all, streams_put_back

UNKNOWN = (0, 0, 0)  # the shape of images until the first batch is made
EVALUATION = -1  # the "epoch" of passes without shuffling, in the names of random streams


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedSplit:
    """A split whose images a feed makes. indices: of its images in the feed's data, (n,). y: their labels, (n,).

    where: what it is, for messages.
    """

    feed: Feed
    indices: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    name: str
    where: str

    def __len__(self) -> int:
        return len(self.y)

    @property
    def evaluation_batch(self) -> int:
        """Images that are evaluated at a time: as the user's loader does, because large ones may not fit otherwise."""
        return min(EVALUATION_BATCH, self.feed.batch_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedDataset:
    """A data set whose images are made by the user's loaders. Like `Dataset`, but a split has labels only."""

    train: StreamedSplit
    valid: StreamedSplit
    test: StreamedSplit
    classes: tuple[str, ...]
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.train.shape

    @property
    def majority_class_accuracy(self) -> float:
        """Test accuracy of always predicting the most common class of the training split."""
        return float((self.test.y == np.bincount(self.train.y).argmax()).mean())


class _Batches(TorchDataset[Any]):
    """The batches of one pass by their number. stream: seed and place that name the random streams of the pass."""

    def __init__(
        self, feed: Feed, order: npt.NDArray[np.int64], batch_size: int, stream: tuple[int, tuple[int, ...]]
    ) -> None:
        self.feed, self.order, self.bs, (self.seed, self.place) = feed, order, batch_size, stream

    def __getitem__(self, number: int) -> Any:
        items = []
        for index in self.order[number * self.bs : (number + 1) * self.bs].tolist():
            seed_all(derive_seed(self.seed, "item", *self.place, index))
            try:
                items.append(self.feed.item(index))
            except Exception as error:
                if not is_not_an_image(error):
                    raise
                return not_decoded(self.feed.name_of(index), error)  # raised in `_finished`: from here it may be sent
        seed_all(derive_seed(self.seed, "collate", *self.place, number))
        return self.feed.collate(items)

    def seed_of_batch(self, number: int) -> int:
        return derive_seed(self.seed, "batch", *self.place, number)


class StreamedLoader(Passes):
    """Batches (x, y) of one split, made by its feed. The arguments are those of `ResidentLoader`."""

    def __init__(
        self,
        dataset: StreamedSplit,
        batch_size: int,
        order_seed: int | None = None,
        device: Any = "cpu",
        epoch: int = 0,
        augment: str = "none",
    ) -> None:
        if augment != "none":
            raise no_augmentation(augment)
        super().__init__(dataset, batch_size, order_seed, device, epoch)

    @property
    def n(self) -> int:
        return len(self.dataset)

    @property
    def c(self) -> int:
        return len(self.dataset.classes)

    @property
    def vocab(self) -> tuple[str, ...]:
        return self.dataset.classes

    def to(self, device: Any) -> StreamedLoader:
        super().to(device)
        self.y = torch.from_numpy(self.dataset.y).to(self.device)
        return self

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = range(self.skip, self.steps_per_epoch)
        with streams_put_back(self.device):
            batches = self._batches()
            made = iter(self._made(batches, numbers))
        try:
            for number in numbers:
                with streams_put_back(self.device):  # whoever asks may be within a step of training
                    batch = self._finished(batches, number, next(made))
                yield batch
        finally:
            # ends its worker processes at once. An exception that a transform has caught may keep this frame alive; the
            # next workers would inherit these, and each side would close what the other still uses
            del made
        self.epoch += 1
        self.skip = 0

    def one_batch(self) -> tuple[Tensor, Tensor]:
        """The first batch of the next pass."""
        with streams_put_back(self.device):
            batches = self._batches()
            return self._finished(batches, self.skip, batches[self.skip])

    def new(self, dataset: StreamedSplit | None = None, shuffle: bool = False, **_: Any) -> StreamedLoader:
        """A loader over the same (or another) split; fastai calls this for a loader without shuffling."""
        seed = self.order_seed if shuffle else None
        return type(self)(dataset or self.dataset, self.bs, seed, self.device, self.epoch)

    def _batches(self) -> _Batches:
        own = self.dataset.indices
        stream: tuple[int, tuple[int, ...]] = (0, (EVALUATION,))
        if self.order_seed is not None:
            own, stream = own[self.stream("order").permutation(self.n)], (self.order_seed, self.place)
        self.dataset.feed.begin(derive_seed(stream[0], "pass", *stream[1]))
        return _Batches(self.dataset.feed, own, self.bs, stream)

    def _made(self, batches: _Batches, numbers: range) -> Iterable[Any]:
        """The batches of these numbers, made here or by worker processes, which the feed's user has asked for."""
        feed = self.dataset.feed
        if feed.num_workers == 0:
            return (batches[number] for number in numbers)
        keep_sockets_short()
        unused = torch.Generator().manual_seed(0)  # so that torch does not draw the workers' seeds from its own stream
        return TorchLoader(
            batches, batch_size=None, sampler=list(numbers), num_workers=feed.num_workers, collate_fn=_as_it_is,
            generator=unused, worker_init_fn=functools.partial(_in_worker, feed),
        )  # fmt: skip

    def _finished(self, batches: _Batches, number: int, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, UserError):
            raise batch
        seed_all(batches.seed_of_batch(number), self.device)
        x, y = checked(self.dataset.feed.finish(batch, self.device), self.dataset.where)
        if self.dataset.shape != UNKNOWN and tuple(x.shape[1:]) != self.dataset.shape:
            raise bad_value(
                self.dataset.where, f"images of {list(x.shape[1:])}", f"{list(self.dataset.shape)}",
                "all batches need one shape; resize in the transforms",
            )  # fmt: skip
        return x, y


def _in_worker(feed: Feed, number: int) -> None:
    feed.in_worker()


def _as_it_is(batch: Any) -> Any:
    return batch


def checked(batch: Any, where: str) -> tuple[Tensor, Tensor]:
    """The batch as plain tensors x (n, channels, height, width) float32 and y (n,) int64; raises `UserError`."""
    parts = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
    if len(parts) != 2 or not all(torch.is_tensor(part) for part in parts):
        found = ", ".join(type(part).__name__ for part in parts)
        raise bad_value(where, f"batches of ({found})", "batches of two tensors, images and labels")
    x, y = (part.as_subclass(Tensor).detach() for part in parts)
    if x.dtype != torch.float32 or x.ndim != 4:
        raise bad_value(
            where, f"images of {x.dtype}, {list(x.shape)}",
            "torch.float32 of (n, channels, height, width)", "convert them in the transforms",
        )  # fmt: skip
    if y.is_floating_point() or y.ndim != 1 or len(y) != len(x):
        raise bad_value(
            where, f"labels of {y.dtype}, {list(y.shape)}", "one class number for each image",
            "trials train classifiers",
        )  # fmt: skip
    return x, y.long()
