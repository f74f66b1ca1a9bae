"""fastai DataLoaders from a user's function, as a streamed data set; refuses those whose order cannot be set.

The first loader trains and the second validates. The third tests; without one, the data of the second are cut in two
halves by the split seed. The batch size, the order and the last, smaller batch are those of the trial.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fastai.data.load import DataLoader as FastaiLoader
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data import DataLoader as TorchLoader

from lth_trainable.data.content import Digest, Labels, read_content, refuse_not_finite
from lth_trainable.data.feeds import FastaiFeed, Feed, TorchFeed
from lth_trainable.data.streamed import UNKNOWN, StreamedDataset, StreamedLoader, StreamedSplit
from lth_trainable.errors import UserError, bad_value, words_of
from lth_trainable.seeds import generator

NAMES = ("train", "valid", "test")
# Methods of fastai's DataLoader that decide which items come in which order
_ORDER = ("get_idxs", "sample", "shuffle_fn", "randomize", "create_batches", "chunkify", "__iter__", "__len__")
_TRANSFORMS = ("after_item", "before_batch", "after_batch", "create_item", "create_batch", "collate_fn")
_FEW = 4  # items of the batch that is tried


def streamed(dls: Any, where: str, split_seed: int) -> StreamedDataset:
    """The data set of these DataLoaders. Raises `UserError` for loaders that cannot be used, with the reason."""
    loaders = list(dls.loaders)
    if not 2 <= len(loaders) <= 3:
        raise bad_value(
            where, f"{len(loaders)} loader(s)", "two or three: training, validation and, if you have it, test"
        )
    feeds = [_feed(loader, f"{where}, {name} loader") for loader, name in zip(loaders, NAMES, strict=False)]
    digest = Digest()
    labels = [
        _content(loader, feed, digest, f"{where}, {name}")
        for loader, feed, name in zip(loaders, feeds, NAMES, strict=False)
    ]
    classes = _classes(dls, labels, digest, where)
    indices = [np.arange(len(y)) for y in labels]
    if len(loaders) == 2:
        order = generator(split_seed, "split").permutation(len(labels[1]))
        half = len(order) // 2
        feeds, labels = [*feeds, feeds[1]], [*labels, labels[1]]
        indices = [indices[0], np.sort(order[half:]), np.sort(order[:half])]
    splits = [
        StreamedSplit(
            feed=feed, indices=own, y=y[own], shape=UNKNOWN, classes=classes, name=name, where=f"{where}, {name} loader"
        )
        for feed, own, y, name in zip(feeds, indices, labels, NAMES, strict=True)
    ]
    for split in splits:
        if not len(split):
            raise bad_value(f"{where}, {split.name}", "no images", "at least one")
    shape = _shape_of(splits[0], where)
    train, valid, test = splits = [replace(split, shape=shape) for split in splits]
    for split in splits:
        _try(split, where)
    return StreamedDataset(train=train, valid=valid, test=test, classes=classes, digest=digest.hexdigest())


def _feed(loader: Any, where: str) -> Feed:
    """What makes the loader's items. Raises `UserError` if its order cannot be set."""
    dataset: Any = getattr(loader, "dataset", None)
    advice = "so that each trial can draw its own order"
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        found = f"{type(dataset).__name__}, which is read from start to end"
        raise bad_value(where, found, f"data with a length and items by their number, {advice}")
    if isinstance(loader, FastaiLoader):
        own = [name for name in _ORDER if _is_own(loader, name)]
        if own:
            found = f"{type(loader).__name__} with its own {own[0]}"
            raise bad_value(where, found, f"a loader whose order can be set, {advice}")
        if loader.bs is None or not loader.indexed or loader.n != len(dataset):
            raise bad_value(where, "a loader of ready batches, or of a part of its data", f"items by number, {advice}")
        return FastaiFeed(loader=loader, num_workers=loader.fake_l.num_workers, batch_size=loader.bs)
    if isinstance(loader, TorchLoader):
        sampler = loader.sampler
        plain = type(sampler) is SequentialSampler or (
            type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(dataset)
        )
        if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler or not plain:
            found = type(sampler if not plain else loader.batch_sampler).__name__
            raise bad_value(where, f"batches drawn by {found}", f"shuffle=True or no sampler, {advice}")
        return TorchFeed(loader=loader, num_workers=loader.num_workers, batch_size=loader.batch_size)
    raise bad_value(where, type(loader).__name__, "a DataLoader of fastai or torch")


def _is_own(loader: Any, name: str) -> bool:
    """Whether a loader replaces fastai's method, in its class or by an argument."""
    return name in vars(loader) or getattr(type(loader), name) is not getattr(FastaiLoader, name)


def _content(loader: Any, feed: Feed, digest: Digest, where: str) -> Labels:
    try:
        for name in _TRANSFORMS:
            digest.value(getattr(loader, name, None))
        return read_content(loader.dataset, loader.dataset.__getitem__, digest)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # any exception here is a mistake in the user's data or transforms
        raise UserError(f"{where}: reading its items raises {type(error).__name__}: {words_of(error)}") from error


def _classes(dls: Any, labels: list[Labels], digest: Digest, where: str) -> tuple[str, ...]:
    found = getattr(dls, "vocab", None) or getattr(dls.loaders[0].dataset, "classes", None)
    n = 1 + max(int(y.max(initial=0)) for y in labels)
    if min(int(y.min(initial=0)) for y in labels) < 0:
        raise bad_value(where, "negative labels", "class numbers from 0 on")
    classes = tuple(map(str, found)) if found is not None and not callable(found) else tuple(map(str, range(n)))
    if not 2 <= n <= len(classes):
        raise bad_value(where, f"labels up to {n - 1} for {len(classes)} classes", "at least 2 classes, from 0 on")
    if len(labels[0]) and (labels[0] == labels[0][0]).all():
        raise bad_value(f"{where}, train", f"one class, {labels[0][0]}, for all images", "at least two classes")
    if n < len(classes):  # more outputs than the labels, which are in the digest, ask for
        digest.text("classes", len(classes))
    return classes


def _shape_of(split: StreamedSplit, where: str) -> tuple[int, int, int]:
    x = _batch(split, where, None)[0]
    return x.shape[1], x.shape[2], x.shape[3]


def _try(split: StreamedSplit, where: str) -> None:
    """Make a few images twice. Raises `UserError` if they differ although every stream was seeded alike."""
    order_seed = 0 if split.name == "train" else None
    one, two = _batch(split, where, order_seed), _batch(split, where, order_seed)
    if not all(torch.equal(a, b) for a, b in zip(one, two, strict=True)):
        raise bad_value(
            f"{where}, {split.name}", "other images when the same ones are made again with the same seeds",
            "transforms that draw from the global streams of random, numpy and torch only",
            "one of them has a random stream of its own, so a trial could not be repeated or resumed",
        )  # fmt: skip


def _batch(split: StreamedSplit, where: str, order_seed: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    loader = StreamedLoader(split, min(_FEW, len(split)), order_seed)
    try:
        batch = loader.one_batch()
        refuse_not_finite(f"{where}, {split.name}", batch[0])
        return batch
    except UserError:
        raise
    except Exception as error:  # any exception here is a mistake in the user's data or transforms
        raise UserError(
            f"{where}, {split.name}: making a batch raises {type(error).__name__}: {words_of(error)}"
        ) from error
