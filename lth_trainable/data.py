"""The data sets, by name: arrays in memory, split once and for all. No torch.

A loader is `f(root, split_seed) -> Dataset`; `root` is the folder of `--data-root` for those that read files. The
digest is of the content before the split, so that a trial's key changes when its data do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lth_trainable.registry import lookup
from lth_trainable.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Part:
    """Pictures (n, channels, height, width), float32 and normalised, with labels (n,), int64."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Three disjoint parts, the class names and the SHA-256 (hex) of the content before the split."""

    train: Part
    valid: Part
    test: Part
    classes: tuple[str, ...]
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.train.x.shape[1:]

    @property
    def majority_class_accuracy(self) -> float:
        """Accuracy on the test part of always answering the commonest class of the training part."""
        commonest = np.bincount(self.train.y).argmax()
        return float((self.test.y == commonest).mean())


Loader = Callable[[Path | None, int], Dataset]


def digits(root: Path | None, split_seed: int) -> Dataset:
    """1,797 handwritten digits of 8x8 pixels (UCI, shipped with scikit-learn): 1,150 / 287 / 360 pictures.

    Normalised by mean and standard deviation of the training part. Nothing is read from `root`.
    """
    table = _digits_table()
    x, y = table[:, :-1].reshape(-1, 1, 8, 8).astype(np.uint8), table[:, -1].astype(np.int64)
    return split(x, y, tuple("0123456789"), sizes=(1150, 287, 360), seed=split_seed, scale=16)


def _digits_table() -> npt.NDArray[np.float64]:
    """Rows of 64 pixels and a label, read from scikit-learn's file: importing scikit-learn takes a second."""
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    file = Path(folders[0], "datasets", "data", "digits.csv.gz") if folders else None
    if file is not None and file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def split(
    x: npt.NDArray[np.uint8],
    y: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    sizes: tuple[int, int, int],
    seed: int,
    scale: float = 255,
) -> Dataset:
    """Shuffle by `seed`, cut into train, validation and test of `sizes`, normalise by the training part's moments."""
    order = generator(seed, "split").permutation(len(x))
    cuts = np.split(order, np.cumsum(sizes)[:-1])
    train = x[cuts[0]].astype(np.float32) / scale
    mean, std = (moment(axis=(0, 2, 3), keepdims=True, dtype=np.float64) for moment in (train.mean, train.std))
    parts = [
        Part(x=((x[cut].astype(np.float32) / scale - mean) / std).astype(np.float32), y=np.ascontiguousarray(y[cut]))
        for cut in cuts
    ]
    return Dataset(train=parts[0], valid=parts[1], test=parts[2], classes=classes, digest=content_digest(x, y))


def content_digest(*arrays: npt.NDArray[np.generic]) -> str:
    """SHA-256 (hex) of shapes, types and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.shape}{array.dtype.str}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


DATASETS: dict[str, Loader] = {"digits": digits}


@functools.lru_cache(maxsize=2)
def load_dataset(name: str, root: Path | None = None, split_seed: int = 0) -> Dataset:
    """The data set `name` (or `package.module:function`), decoded once a process."""
    loader: Loader = lookup("dataset", name, DATASETS)
    return loader(root, split_seed)
