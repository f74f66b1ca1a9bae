"""The data sets by name: arrays in memory with fixed splits. Does not import torch.

A loader is `f(root, split_seed) -> Dataset`; `root` is the folder of `--data-root`, for data sets in files. Those in
`IMAGE_SIZES` also take `image_size`. The digest
covers the content before the split, so that a trial's key changes if its data change.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lth_trainable.data.class_folders import read_class_folders
from lth_trainable.data.image_folders import LAYOUTS, read
from lth_trainable.errors import bad_value
from lth_trainable.registry import lookup
from lth_trainable.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a data set. x: normalised images (n, channels, height, width), float32. y: labels (n,), int64."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


Part = Split  # the name up to version 0.4, used by users' data sets and exported learners


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: three disjoint splits, the class names, and the SHA-256 (hex) of the content before the split."""

    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.train.x.shape[1:]

    @property
    def majority_class_accuracy(self) -> float:
        """Test accuracy of always predicting the most common class of the training split."""
        commonest = np.bincount(self.train.y).argmax()
        return float((self.test.y == commonest).mean())


CHUNK = 1024  # images normalised at a time; does not change the result

Loader = Callable[..., Dataset]


def digits(root: Path | None, split_seed: int) -> Dataset:
    """1,797 handwritten digits of 8x8 pixels (UCI, shipped with scikit-learn): 1,150 / 287 / 360 images.

    Normalised by mean and standard deviation of the training split. Reads nothing from `root`.
    """
    table = _digits_table()
    x, y = table[:, :-1].reshape(-1, 1, 8, 8).astype(np.uint8), table[:, -1].astype(np.int64)
    return split(x, y, tuple("0123456789"), sizes=(1150, 287, 360), seed=split_seed, scale=16)


def _digits_table() -> npt.NDArray[np.float64]:
    """Rows of 64 pixels and a label, read from scikit-learn's file, because importing scikit-learn takes a second."""
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    file = Path(folders[0], "datasets", "data", "digits.csv.gz") if folders else None
    if file is not None and file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def mnist(root: Path | None, split_seed: int) -> Dataset:
    """MNIST (LeCun et al. 1998): grey 28x28 px, 55,000 / 5,000 images and its own test set of 10,000.

    Layout of fastai's `URLs.MNIST`: `mnist_png/{training,testing}/<digit>/*.png`.
    """
    return _of_images("mnist", root, split_seed, valid=Fraction(5_000, 60_000))


def cifar10(root: Path | None, split_seed: int) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): RGB 32x32 px, 45,000 / 5,000 images and its own test set of 10,000.

    Layout of fastai's `URLs.CIFAR`: `cifar10/{train,test}/<class>/*.png` (or JPEG copies, whose pixels differ).
    """
    return _of_images("cifar10", root, split_seed, valid=Fraction(5_000, 50_000))


def pets(root: Path | None, split_seed: int, image_size: int | None = None) -> Dataset:
    """Cats (1) against dogs (0) of Oxford-IIIT Pet (Parkhi et al. 2012): RGB 64x64 px, 5,912 / 739 / 739 images.

    Layout of fastai's `URLs.PETS`: `oxford-iiit-pet/images/<name>.jpg`, with a capital first letter for a cat. The
    centre square is resized. The digest covers decoded pixels, so it depends on the JPEG decoder.
    """
    tenth = Fraction(739, 7_390)
    return _of_images("pets", root, split_seed, valid=tenth, test=tenth, size=image_size)


def folder(root: Path | None, split_seed: int, image_size: int | None = None) -> Dataset:
    """Any folder of class folders: `DIR/<class>/<images>`, or `DIR/{train,valid,test}/<class>/<images>`.

    A split without a folder is a tenth of the images, drawn by the split seed. `class_folders.py` says how images of
    other sizes and modes are converted. The digest covers pixels, labels and which split folder an image lies in.
    """
    found = read_class_folders(root, image_size or IMAGE_SIZES["folder"])
    own = {"valid": found.valid, "test": found.test}
    sizes = held_out(f"folder {root}", len(found.x), own)
    marks = [mark for mark in own.values() if mark is not None]
    data = split(found.x, found.y, found.classes, sizes=sizes, seed=split_seed, test=found.test, valid=found.valid)
    return replace(data, digest=content_digest(found.x, found.y, *marks)) if marks else data


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


def _of_images(
    name: str, root: Path | None, seed: int, *, valid: Fraction, test: Fraction = Fraction(0), size: int | None = None
) -> Dataset:
    """The data set `name`, with fractions `valid` and `test` (rounded down) held out.

    The fractions are of the images that do not belong to the data set's own test split.
    """
    found = read(name, root, size)
    own = 0 if found.test is None else int(found.test.sum())
    n = len(found.x) - own
    held = int(n * valid)
    if held == 0:
        raise bad_value(name, f"{n} images", f"at least {-(-1 // valid)}", "so that some can be held out")
    sizes = (n - held - int(n * test), held, own or int(n * test))
    return split(found.x, found.y, found.classes, sizes=sizes, seed=seed, test=found.test)


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
    mean, std = _moments(x, cuts[0], scale)
    splits = [Split(x=_normalised(x, cut, scale, mean, std), y=np.ascontiguousarray(y[cut])) for cut in cuts]
    return Dataset(train=splits[0], valid=splits[1], test=splits[2], classes=classes, digest=content_digest(x, y))


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


def _moments(
    x: npt.NDArray[np.uint8], cut: npt.NDArray[np.int64], scale: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each channel of pixel / scale, over the images `cut`; (1, channels, 1, 1).

    One channel at a time, because numpy squares deviations in float64, with eight bytes for each pixel.
    """
    mean, std = np.empty((2, 1, x.shape[1], 1, 1))
    for channel in range(x.shape[1]):
        pixels = x[cut, channel].astype(np.float32) / scale
        mean[:, channel], std[:, channel] = pixels.mean(dtype=np.float64), pixels.std(dtype=np.float64)
    return mean, std


def _normalised(
    x: npt.NDArray[np.uint8],
    cut: npt.NDArray[np.int64],
    scale: float,
    mean: npt.NDArray[np.float64],
    std: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """The images `cut`, normalised in float64 and stored in float32, in chunks to save memory."""
    normalised = np.empty((len(cut), *x.shape[1:]), np.float32)
    for start in range(0, len(cut), CHUNK):
        piece = slice(start, start + CHUNK)
        normalised[piece] = (x[cut[piece]].astype(np.float32) / scale - mean) / std
    return normalised


def content_digest(*arrays: npt.NDArray[np.generic]) -> str:
    """SHA-256 (hex) of shapes, types and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.shape}{array.dtype.str}".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


DATASETS: dict[str, Loader] = {
    "digits": digits, "mnist": mnist, "cifar10": cifar10, "pets": pets, "folder": folder,
}  # fmt: skip
IMAGE_SIZES = {"pets": LAYOUTS["pets"].size, "folder": 64}  # data sets whose images are resized, and to what by default
IN_FILES = (*LAYOUTS, "folder")  # data sets that are read from files


@functools.lru_cache(maxsize=2)
def load_dataset(name: str, root: Path | None = None, split_seed: int = 0, image_size: int | None = None) -> Dataset:
    """The data set `name` (or `package.module:function`), loaded once in each process.

    image_size: side of the images in pixels, for the data sets in `IMAGE_SIZES`; None: their own.
    """
    loader: Loader = lookup("dataset", name, DATASETS)
    return loader(root, split_seed) if image_size is None else loader(root, split_seed, image_size)
