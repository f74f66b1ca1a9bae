"""A data set in memory whose images are normalised when they are first used. No torch.

A plan only needs the number of images, their shape and the digest of their bytes. What is normalised once in a process
is also there in each process that is forked from it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lth_trainable.data.splits import Dataset, Pixels, Split, content_digest, moments, normalised, split_indices

T = TypeVar("T")


class Once(Generic[T]):
    """A value that is made when it is first asked for, once for all threads."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._lock = threading.Lock()

    def __call__(self) -> T:
        with self._lock:
            if self._make is not None:
                self._value = self._make()
                self._make = None  # with what it was to be made from
            return self._value


class PixelsWhenUsed(Pixels):
    """Pixels whose mean and standard deviation are measured when they are first used."""

    def __init__(self, scale: float, moments: Callable[[], tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
        self.__dict__.update(scale=scale, moments=Once(moments))

    mean = property(lambda self: self.__dict__["moments"]()[0])
    std = property(lambda self: self.__dict__["moments"]()[1])

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Pixels, scale=self.scale, mean=self.mean, std=self.std), ()


class SplitWhenUsed(Split):
    """A split whose images are made when they are first used. shape: channels, height and width of each."""

    def __init__(
        self, y: npt.NDArray[Any], shape: tuple[int, int, int], images: Callable[[], npt.NDArray[Any]]
    ) -> None:
        self.__dict__.update(y=y, shape_of_each=shape, images=Once(images))

    x = property(lambda self: self.__dict__["images"]())

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        found: tuple[int, int, int] = self.__dict__["shape_of_each"]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Split, x=self.x, y=self.y), ()


def split_when_used(
    x: npt.NDArray[np.uint8],
    y: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    sizes: tuple[int, int, int],
    seed: int,
    test: npt.NDArray[np.bool_] | None = None,
    valid: npt.NDArray[np.bool_] | None = None,
) -> Dataset:
    """What `split` returns, with the same bytes, but normalised when it is used. x and y must not change any more."""
    cuts = split_indices(sizes, seed, test=test, valid=valid)
    pixels = PixelsWhenUsed(255, functools.partial(moments, x, cuts[0], 255))
    train, valid_split, test_split = (
        SplitWhenUsed(np.ascontiguousarray(y[cut]), x.shape[1:], functools.partial(normalised, x, cut, pixels))
        for cut in cuts
    )
    return Dataset(
        train=train, valid=valid_split, test=test_split, classes=classes, digest=content_digest(x, y), pixels=pixels
    )
