"""Data sets of random images with the shapes and sizes of MNIST and CIFAR-10: for speed, content does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lth_trainable.data.splits import Dataset, Split

CLASSES = 10


def like_mnist(root: Path | None, split_seed: int) -> Dataset:
    """55,000 training, 5,000 validation and 10,000 test images of 1 x 28 x 28."""
    return _random((1, 28, 28), (55_000, 5_000, 10_000))


def few_like_mnist(root: Path | None, split_seed: int) -> Dataset:
    """60 images of 1 x 28 x 28 in each split."""
    return _random((1, 28, 28), (60, 60, 60))


def like_cifar10(root: Path | None, split_seed: int) -> Dataset:
    """45,000 training, 5,000 validation and 10,000 test images of 3 x 32 x 32."""
    return _random((3, 32, 32), (45_000, 5_000, 10_000))


def _random(shape: tuple[int, int, int], sizes: tuple[int, int, int]) -> Dataset:
    stream = np.random.default_rng(0)
    train, valid, test = (
        Split(x=stream.standard_normal((n, *shape), np.float32), y=stream.integers(0, CLASSES, n)) for n in sizes
    )
    classes = tuple(str(number) for number in range(CLASSES))
    return Dataset(train=train, valid=valid, test=test, classes=classes, digest="random")
