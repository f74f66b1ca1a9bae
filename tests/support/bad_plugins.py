"""Data sets and networks with one mistake each, as users make them, and what must be said about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fastai.data.core import DataLoaders
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lth_trainable.data.datasets import Dataset, Split

N = 30
Array = npt.NDArray[Any]


def x(n: int = N, channels: int = 1) -> Array:
    return np.random.default_rng(n).standard_normal((n, channels, 6, 6)).astype(np.float32)


def y(n: int = N) -> Array:
    return np.arange(n) % 3


def data_of(train: Split, digest: str = "v1") -> Dataset:
    held = [Split(x=x(n, train.x.shape[1] if train.x.ndim > 1 else 1), y=y(n)) for n in (8, 9)]
    return Dataset(train=train, valid=held[0], test=held[1], classes=("a", "b", "c"), digest=digest)


def fine(root: Path | None, split_seed: int) -> Dataset:
    return data_of(Split(x=x(), y=y()))


def other_with_the_same_digest(root: Path | None, split_seed: int) -> Dataset:
    return data_of(Split(x=x() + 1, y=y()))


def _with_classes(n: int) -> Any:
    made = _streamed()
    made.vocab = [str(i) for i in range(n)]
    return made


def streamed_three_classes(root: Path | None, split_seed: int) -> Any:
    return _with_classes(3)


def streamed_four_classes(root: Path | None, split_seed: int) -> Any:
    return _with_classes(4)


def own_validation(root: Path | None, split_seed: int) -> Any:
    return {"train": (x(), y()), "valid": (x(12), y(12))}


def own_test(root: Path | None, split_seed: int) -> Any:
    return {"train": (x(), y()), "test": (x(12), y(12))}


def more_classes_with_the_same_digest(root: Path | None, split_seed: int) -> Dataset:
    return replace(fine(root, split_seed), classes=("a", "b", "c", "d"))


def unseeded_images(root: Path | None, split_seed: int) -> Dataset:
    return data_of(Split(x=np.random.default_rng().standard_normal((N, 1, 6, 6)).astype(np.float32), y=y()))


def loaders_of_eight(root: Path | None, split_seed: int) -> Any:
    parts = [TensorDataset(torch.from_numpy(x(n)), torch.from_numpy(y(n))) for n in (N, 12, 9)]
    return DataLoaders(*(DataLoader(part, batch_size=8, shuffle=part is parts[0]) for part in parts))


def _streamed(images: Any = None, labels: Any = None, item: Any = None) -> Any:
    arrays = x() if images is None else images, y() if labels is None else labels
    train = TensorDataset(*map(torch.from_numpy, arrays))
    made = train if item is None else _Items(train, item)
    held = TensorDataset(torch.from_numpy(x(12)), torch.from_numpy(y(12)))
    return DataLoaders(DataLoader(made, batch_size=8, shuffle=True), DataLoader(held, batch_size=8))


class _Items(torch.utils.data.Dataset[Any]):
    """Another data set whose item 21 is changed."""

    def __init__(self, of: Any, change: Any) -> None:
        self.of, self.change = of, change

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int) -> Any:
        image, label = self.of[index]
        return self.change(image, int(label)) if index == 21 else (image, int(label))


def streamed_not_a_number(root: Path | None, split_seed: int) -> Any:
    images = x()
    images[21, 0, 2, 2] = np.inf
    return _streamed(images)


def streamed_item_not_a_number(root: Path | None, split_seed: int) -> Any:
    return _streamed(item=lambda image, label: (image / 0, label))


def streamed_one_class(root: Path | None, split_seed: int) -> Any:
    return _streamed(labels=y() * 0 + 1)


def streamed_item_exits(root: Path | None, split_seed: int) -> Any:
    return _streamed(item=lambda image, label: sys.exit(2))


def streamed_item_is_none(root: Path | None, split_seed: int) -> Any:
    return _streamed(item=lambda image, label: None)


def _with(images: Any = None, labels: Any = None) -> Dataset:
    return data_of(Split(x=x() if images is None else images, y=y() if labels is None else labels))


def high_labels(root: Path | None, split_seed: int) -> Any:
    return _with(labels=y() + 2)


def negative_labels(root: Path | None, split_seed: int) -> Any:
    return _with(labels=y() - 1)


def float64(root: Path | None, split_seed: int) -> Any:
    return _with(x().astype(np.float64))


def int32_labels(root: Path | None, split_seed: int) -> Any:
    return _with(labels=y().astype(np.int32))


def bool_labels(root: Path | None, split_seed: int) -> Any:
    return _with(labels=y() > 1)


def one_hot(root: Path | None, split_seed: int) -> Any:
    return _with(labels=np.eye(3, dtype=np.int64)[y()])


def column(root: Path | None, split_seed: int) -> Any:
    return _with(labels=y()[:, None])


def fewer_labels(root: Path | None, split_seed: int) -> Any:
    return _with(labels=y(N - 1))


def not_a_number(root: Path | None, split_seed: int) -> Any:
    images = x()
    images[3, 0, 2, 2] = np.nan
    return _with(images)


def constant_channel(root: Path | None, split_seed: int) -> Any:
    images = x(channels=3)
    images[:, 1] = 2
    return _with(images)


def one_class(root: Path | None, split_seed: int) -> Any:
    return _with(labels=y() * 0)


def without_channels(root: Path | None, split_seed: int) -> Any:
    return _with(x()[:, 0])


def objects(root: Path | None, split_seed: int) -> Any:
    return _with(x().astype(object))


def tensors(root: Path | None, split_seed: int) -> Any:
    return _with(torch.ones(N, 1, 6, 6, requires_grad=True))


def empty_split(root: Path | None, split_seed: int) -> Any:
    return replace(fine(root, split_seed), valid=Split(x=x(0), y=y(0)))


def split_of_another_shape(root: Path | None, split_seed: int) -> Any:
    return replace(fine(root, split_seed), test=Split(x=x(9)[..., :5], y=y(9)))


def no_split(root: Path | None, split_seed: int) -> Any:
    return replace(fine(root, split_seed), valid=(x(), y()))  # type: ignore[arg-type]


def number_of_classes(root: Path | None, split_seed: int) -> Any:
    return replace(fine(root, split_seed), classes=3)  # type: ignore[arg-type]


def another_signature(folder: Path) -> Any:
    return fine(folder, 0)


def yields(root: Path | None, split_seed: int) -> Iterator[Any]:
    yield x(), y()


async def promises(root: Path | None, split_seed: int) -> Any:
    return x(), y()


def exits(root: Path | None, split_seed: int) -> Any:
    sys.exit("no data here")


def missing_file(root: Path | None, split_seed: int) -> Any:
    return np.load("/nowhere/images.npz")


class NoFunction:
    def __init__(self, root: Path | None, split_seed: int) -> None: ...


def arrays_one_hot(root: Path | None, split_seed: int) -> Any:
    return x(), np.eye(3)[y()]


def arrays_negative(root: Path | None, split_seed: int) -> Any:
    return x(), y() - 1


def arrays_constant_channel(root: Path | None, split_seed: int) -> Any:
    return np.concatenate([x(), np.ones((N, 1, 6, 6), np.float32)], 1), y()


def arrays_of_nothing(root: Path | None, split_seed: int) -> Any:
    return x(0), y(0)


def arrays_elsewhere(root: Path | None, split_seed: int) -> Any:
    return torch.ones(N, 1, 6, 6, device="meta"), torch.arange(N)


DATA = {
    "high_labels": "train: found 'labels from 2 to 4 for 3 classes'; expected 0 to 2",
    "negative_labels": "train: found 'labels from -1 to 1 for 3 classes'",
    "float64": "train: found 'images of float64, [30, 1, 6, 6]'; expected float32",
    "int32_labels": "train: found 'labels of int32, [30], for 30 images'; expected int64",
    "bool_labels": "found 'labels of bool",
    "one_hot": "one-hot labels take y.argmax(1)",
    "column": "take the column: y[:, 0]",
    "fewer_labels": "found 'labels of int64, [29], for 30 images'",
    "not_a_number": "train: found 'NaN or infinity among the pixels'",
    "constant_channel": "found 'one value in every pixel of channel 1'",
    "one_class": "found 'one class, 0, for all images'; expected at least two",
    "without_channels": "images of float32, [30, 6, 6]",
    "objects": "images of object",
    "tensors": "found 'images in a Tensor'; expected a NumPy array",
    "empty_split": "valid: found 'no images'",
    "split_of_another_shape": "expected the same shape in all splits",
    "no_split": "valid: found 'tuple'; expected a Split",
    "number_of_classes": "found 'classes of int: 3'",
    "another_signature": "found another_signature(folder), too many positional arguments; expected f(root, split_seed)",
    "yields": "found 'a function that yields'",
    "promises": "found 'an async function'",
    "exits": "it raises SystemExit: no data here",
    "missing_file": "it raises FileNotFoundError",
    "NoFunction": "found 'NoFunction'; expected a Dataset",
    "arrays_one_hot": "y.argmax(1)",
    "arrays_negative": "found 'the label -1'",
    "arrays_constant_channel": "channel 1",
    "arrays_of_nothing": "found 'no images'",
    "streamed_not_a_number": "train: its items: found 'NaN or infinity among the pixels'",
    "streamed_item_not_a_number": "train: item 21: found 'NaN or infinity among the pixels'",
    "streamed_one_class": "train: found 'one class, 1, for all images'",
    "streamed_item_exits": "SystemExit: 2",
    "streamed_item_is_none": "train: item 21: found 'NoneType'",
    "arrays_elsewhere": "cannot be read: NotImplementedError",
}


# -- networks ----------------------------------------------------------------------------------------------------------

Shape = tuple[int, int, int]


def net(shape: Shape, n_classes: int, norm: nn.Module | None = None) -> nn.Module:
    layers = [
        nn.Flatten(),
        nn.Linear(int(np.prod(shape)), 8),
        norm or nn.Identity(),
        nn.ReLU(),
        nn.Linear(8, n_classes),
    ]
    return nn.Sequential(*layers)


class Wrapped(nn.Module):
    def __init__(self, shape: Shape, n_classes: int) -> None:
        super().__init__()
        self.net = net(shape, n_classes)

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


class PairAlways(Wrapped):
    def forward(self, images: Tensor) -> Any:
        return self.net(images), images


class PairInTraining(Wrapped):
    def forward(self, images: Tensor) -> Any:
        return (self.net(images), images) if self.training else self.net(images)


class InPlace(Wrapped):
    def forward(self, images: Tensor) -> Any:
        return self.net(images.mul_(2))


class AlwaysRandom(Wrapped):
    def forward(self, images: Tensor) -> Any:
        return self.net(nn.functional.dropout(images))


class NumpyInTraining(Wrapped):
    def forward(self, images: Tensor) -> Any:
        return self.net(images + (float(np.random.rand()) if self.training else 0))  # noqa: NPY002


class NoGradient(Wrapped):
    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        return self.net(images)


class PairsOnly(Wrapped):
    def forward(self, images: Tensor) -> Any:
        return self.net(images.reshape(2, *images.shape[1:]))


class Squeezed(Wrapped):
    """Right for every batch but one of one image."""

    def forward(self, images: Tensor) -> Any:
        return self.net(images).squeeze(0)


def one_output_more(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes + 1)


def one_seed(shape: Shape, n_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return net(shape, n_classes)


def own_generator(shape: Shape, n_classes: int) -> nn.Module:
    model, stream = net(shape, n_classes), torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=stream)
    return model


def unseeded(shape: Shape, n_classes: int) -> nn.Module:
    model = net(shape, n_classes)
    for parameter in model.parameters():
        parameter.data.fill_(float(np.random.default_rng().random()))
    return model


_kept: list[nn.Module] = []


def kept(shape: Shape, n_classes: int) -> nn.Module:
    _kept.append(net(shape, n_classes))
    return _kept[0]


def lazy(shape: Shape, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(n_classes))


def half(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes).half()


def complex_weights(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes).to(torch.complex64)


def on_meta(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes).to("meta")


def without_parameters(shape: Shape, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(n_classes))


def three_channels(shape: Shape, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes))


def no_network(shape: Shape, n_classes: int) -> Any:
    return net


def exiting_network(shape: Shape, n_classes: int) -> Any:
    sys.exit(3)


def classes_only(n_classes: int) -> nn.Module:
    return net((1, 6, 6), n_classes)


def norm_instance(shape: Shape, n_classes: int) -> nn.Module:
    convolution = nn.Conv2d(shape[0], 4, shape[1])
    return nn.Sequential(convolution, nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(4, n_classes))


NETWORKS = {
    "one_output_more": "its output has the shape [2, 4]; expected one tensor of [2, 3]",
    "PairAlways": "it returns a tuple of 2",
    "PairInTraining": "in training it returns a tuple of 2",
    "InPlace": "it changes the images that it is given",
    "AlwaysRandom": "evaluated twice on the same images, it gives other outputs",
    "NumpyInTraining": "another stream than torch's",
    "NoGradient": "its outputs have no gradient",
    "PairsOnly": "in training it cannot take 3 images of 1 x 6 x 6: RuntimeError",
    "one_seed": "with another seed it has the same weights",
    "own_generator": "with another seed it has the same weights",
    "unseeded": "built twice after one torch.manual_seed, it has different weights",
    "kept": "returns the same network",
    "lazy": "1.weight has no shape yet (a lazy layer)",
    "half": "1.weight is of torch.float16; expected torch.float32",
    "complex_weights": "1.weight is of torch.complex64",
    "on_meta": "1.weight is on the device meta; expected cpu",
    "without_parameters": "built from|no gradient|has the same weights",
    "three_channels": "it cannot take 2 images of 1 x 6 x 6: RuntimeError",
    "no_network": "it returns function; expected a network",
    "exiting_network": "it raises SystemExit: 3",
    "classes_only": "found classes_only(n_classes), too many positional arguments; expected f(shape, n_classes)",
    "norm_instance": "it cannot take 2 images of 1 x 6 x 6: ValueError",
}


def norm_1d(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes, nn.BatchNorm1d(8))


def norm_1d_without_statistics(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes, nn.BatchNorm1d(8, track_running_stats=False))


def norm_groups(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes, nn.GroupNorm(8, 8))


def norm_layer(shape: Shape, n_classes: int) -> nn.Module:
    return net(shape, n_classes, nn.LayerNorm(8))


def norm_2d(shape: Shape, n_classes: int) -> nn.Module:
    """One image has many pixels, so a batch of one has many values."""
    layers = [nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, n_classes))


ONE_IMAGE_REFUSED = ("norm_1d", "norm_1d_without_statistics", "norm_groups", "Squeezed")
ONE_IMAGE_TAKEN = ("net", "norm_layer", "norm_2d")
