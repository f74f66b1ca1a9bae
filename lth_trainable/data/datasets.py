"""The data sets by name. Does not import torch.

A loader is `f(root, split_seed) -> Dataset`; `root` is the folder of `--data-root`, for data sets in files. Those in
`IMAGE_SIZES` also take `image_size`. The digest
covers the content before the split, so that a trial's key changes if its data change.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lth_trainable.data.class_folders import read_class_folders
from lth_trainable.data.given import check_training
from lth_trainable.data.image_folders import LAYOUTS, read
from lth_trainable.data.splits import CHUNK, Dataset, Pixels, Split, content_digest, held_out, no_augmentation, split
from lth_trainable.data.when_used import split_when_used
from lth_trainable.errors import bad_value
from lth_trainable.registry import lookup

if TYPE_CHECKING:
    from lth_trainable.data.streamed import StreamedDataset


Part = Split  # the name up to version 0.4, used by users' data sets and exported learners


__all__ = [
    "CHUNK", "DATASETS", "IMAGE_SIZES", "IN_FILES", "Dataset", "Loader", "Part", "Pixels", "Split", "cifar10",
    "content_digest", "digits", "folder", "load_dataset", "mnist", "no_augmentation", "pets", "split",
]  # fmt: skip

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
    data = split_when_used(
        found.x, found.y, found.classes, sizes=sizes, seed=split_seed, test=found.test, valid=found.valid
    )
    check_training(data.train, f"folder {root}")
    return replace(data, digest=content_digest(found.x, found.y, *marks)) if marks else data


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
    return split_when_used(found.x, found.y, found.classes, sizes=sizes, seed=seed, test=found.test)


DATASETS: dict[str, Loader] = {
    "digits": digits, "mnist": mnist, "cifar10": cifar10, "pets": pets, "folder": folder,
}  # fmt: skip
IMAGE_SIZES = {"pets": LAYOUTS["pets"].size, "folder": 64}  # data sets whose images are resized, and to what by default
LOADED = 2  # data sets that a process keeps
IN_FILES = (*LAYOUTS, "folder")  # data sets that are read from files


@functools.lru_cache(maxsize=LOADED)
def load_dataset(
    name: str, root: Path | None = None, split_seed: int = 0, image_size: int | None = None
) -> Dataset | StreamedDataset:
    """The data set `name` (or `package.module:function`), loaded once in each process.

    image_size: side of the images in pixels, for the data sets in `IMAGE_SIZES`; None: their own. A plug-in may return
    what `own.py` lists.
    """
    loader: Loader = lookup("dataset", name, DATASETS)
    if name not in DATASETS:
        from lth_trainable.data.own import load_own

        return load_own(name, loader, root, split_seed)
    return loader(root, split_seed) if image_size is None else loader(root, split_seed, image_size)
