"""A data set in memory: its splits, how they are drawn and normalised, and the digest of its content. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lth_trainable.errors import UserError, bad_value
from lth_trainable.seeds import generator

CHUNK = 1024  # images normalised at a time; does not change the result
CACHED = 64  # the same for bytes, so that what is read and written stays in the processor's cache
EVALUATION_BATCH = 1024  # images evaluated at a time; fixed, because the rounding of a sum depends on its batches


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a data set. x: normalised images (n, channels, height, width), float32. y: labels (n,), int64."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        return self.x.shape[1:]

    @property
    def evaluation_batch(self) -> int:
        """Images that are evaluated at a time."""
        return EVALUATION_BATCH


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How the pixels of an image become the values in a split: (pixel / scale - mean) / std, by channel."""

    scale: float
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    def normalised(self, x: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Pixels (n, channels, height, width) as values; computed in float64."""
        return np.asarray((x.astype(np.float32) / self.scale - self.mean) / self.std, np.float32)

    def of_bytes(self) -> npt.NDArray[np.float32]:
        """The values of all pixels that are bytes, (channels, 256)."""
        every = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1)
        return np.ascontiguousarray(self.normalised(every)[:, :, 0, 0].T)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: three disjoint splits, the class names, and the SHA-256 (hex) of the content before the split.

    pixels: how its images were normalised, for images from outside; None if that is not known.
    """

    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    digest: str
    pixels: Pixels | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.train.shape

    @property
    def majority_class_accuracy(self) -> float:
        """Test accuracy of always predicting the most common class of the training split."""
        commonest = np.bincount(self.train.y).argmax()
        return float((self.test.y == commonest).mean())

    def normalise(self) -> None:
        """Normalise the images now, if they would be when they are first used."""
        for split in (self.train, self.valid, self.test):
            _ = split.x


def held_out(where: str, n: int, own: Mapping[str, npt.NDArray[np.bool_] | None]) -> tuple[int, int, int]:
    """Sizes of training, validation and test split of n images. own: marks of the given "valid" and "test" splits.

    A split that is not given gets a tenth of the other images, rounded down. Raises `UserError` if that is none.
    """
    given = {name: int(mark.sum()) for name, mark in own.items() if mark is not None}
    left = n - sum(given.values())
    missing = len(own) - len(given)
    if left < (10 if missing else 1):
        raise bad_value(where, f"{left} images for training", "at least 10" if missing else "at least 1")
    valid, test = (given.get(name, left // 10) for name in ("valid", "test"))
    return n - valid - test, valid, test


def split(
    x: npt.NDArray[np.uint8],
    y: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    sizes: tuple[int, int, int],
    seed: int,
    scale: float = 255,
    test: npt.NDArray[np.bool_] | None = None,
    valid: npt.NDArray[np.bool_] | None = None,
) -> Dataset:
    """Shuffle by `seed`, cut into training, validation and test splits of these sizes, and normalise.

    Normalises by mean and standard deviation of the training split. test, valid: (n,), mark the images of a predefined
    test or validation split; they stay that split, in their order, for every seed.
    """
    cuts = split_indices(sizes, seed, test=test, valid=valid)
    mean, std = moments(x, cuts[0], scale)
    pixels = Pixels(scale=scale, mean=mean, std=std)
    splits = [Split(x=normalised(x, cut, pixels), y=np.ascontiguousarray(y[cut])) for cut in cuts]
    return Dataset(
        train=splits[0], valid=splits[1], test=splits[2], classes=classes, digest=content_digest(x, y), pixels=pixels
    )


def split_indices(
    sizes: tuple[int, int, int],
    seed: int,
    *,
    test: npt.NDArray[np.bool_] | None = None,
    valid: npt.NDArray[np.bool_] | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Indices of the training, validation and test images; see `split`."""
    order = generator(seed, "split").permutation(sum(sizes))
    own = [(place, mark) for place, mark in ((1, valid), (2, test)) if mark is not None]
    for _, mark in own:
        order = order[~mark[order]]
    drawn = [0 if place in dict(own) else n for place, n in enumerate(sizes)]
    cuts = np.split(order, np.cumsum(drawn)[:-1])
    for place, mark in own:
        cuts[place] = np.flatnonzero(mark)
    return cuts


def moments(
    x: npt.NDArray[np.uint8], cut: npt.NDArray[np.int64], scale: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each channel of pixel / scale, over the images `cut`; (1, channels, 1, 1).

    One channel at a time, because numpy squares deviations in float64, with eight bytes for each pixel.
    """
    mean, std = np.empty((2, 1, x.shape[1], 1, 1))
    for channel in range(x.shape[1]):
        pixels = x[cut, channel].astype(np.float32) / scale
        mean[:, channel], std[:, channel] = pixels.mean(dtype=np.float64), pixels.std(dtype=np.float64) or 1
    return mean, std


def normalised(x: npt.NDArray[np.uint8], cut: npt.NDArray[np.int64], pixels: Pixels) -> npt.NDArray[np.float32]:
    """The images `cut`, normalised in float64 and stored in float32, in chunks to save memory.

    Bytes are looked up in a table, which gives the same values in a sixth of the time.
    """
    found = np.empty((len(cut), *x.shape[1:]), np.float32)
    if x.dtype == np.uint8:
        of_bytes = pixels.of_bytes()
        for start in range(0, len(cut), CACHED):
            piece = x[cut[start : start + CACHED]]
            for channel, values in enumerate(of_bytes):
                found[start : start + CACHED, channel] = values.take(piece[:, channel])
        return found
    for start in range(0, len(cut), CHUNK):
        found[start : start + CHUNK] = pixels.normalised(x[cut[start : start + CHUNK]])
    return found


def content_digest(*arrays: npt.NDArray[np.generic]) -> str:
    """SHA-256 (hex) of shapes, types and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.shape}{array.dtype.str}".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def no_augmentation(found: str) -> UserError:
    """The exception for a trial that would augment the images of a user's own loaders."""
    return bad_value(
        "augment", found, "none with a data set of DataLoaders", "put the augmentation into their transforms"
    )
