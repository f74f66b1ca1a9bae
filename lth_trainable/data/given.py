"""A `Dataset` that a user's function has made: checked part by part, and with a digest of what it holds.

The digest that the function gives is not believed: two data sets that say the same would share results.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lth_trainable.data.splits import CHUNK, Dataset, Split, content_digest
from lth_trainable.errors import bad_value

SPLITS = ("train", "valid", "test")


def given(data: Dataset, where: str) -> Dataset:
    """The data set with the digest of its own parts. Raises `UserError` for what cannot be trained or evaluated."""
    classes = _classes(data.classes, where)
    parts = {name: _split(getattr(data, name), f"{where}, {name}", len(classes)) for name in SPLITS}
    shapes = {name: list(split.x.shape[1:]) for name, split in parts.items()}
    if len({tuple(shape) for shape in shapes.values()}) != 1:
        raise bad_value(where, f"images of {shapes}", "the same shape in all splits")
    check_training(parts["train"], where)
    arrays = [array for split in parts.values() for array in (split.x, split.y)]
    train, valid, test = parts.values()
    digest = content_digest(*arrays, np.array(classes))
    return replace(data, train=train, valid=valid, test=test, classes=classes, digest=digest)


def check_training(train: Split, where: str) -> None:
    """Raise `UserError` if the training images are of one class, or one of their channels is the same in all."""
    found = np.unique(train.y)
    if len(found) < 2:
        raise bad_value(f"{where}, train", f"one class, {found[0]}, for all images", "at least two classes")
    for channel in range(train.x.shape[1]):
        first = train.x[0, channel].flat[0]
        if all((piece[:, channel] == first).all() for piece in _pieces(train.x)):
            advice = "leave it out" if train.x.shape[1] > 1 else "are these the right images?"
            raise bad_value(
                f"{where}, train", f"one value in every pixel of channel {channel}", "channels that differ", advice
            )


def _classes(found: Any, where: str) -> tuple[str, ...]:
    if not isinstance(found, tuple | list) or not all(isinstance(name, str) for name in found):
        raise bad_value(
            where, f"classes of {type(found).__name__}: {found!r:.80}", "the names of the classes: a tuple of texts"
        )
    if len(found) < 2:
        raise bad_value(where, f"{len(found)} classes", "at least two")
    return tuple(found)


def _split(split: Any, where: str, n_classes: int) -> Split:
    if not isinstance(split, Split):
        raise bad_value(where, type(split).__name__, "a Split(x=images, y=labels)")
    _check_array(split.x, "images", "float32 of (n, channels, height, width)", f"{where}")
    _check_array(split.y, "labels", "int64 of (n,), the class number of each image", f"{where}")
    x, y = split.x, split.y
    if x.dtype != np.float32 or x.ndim != 4 or 0 in x.shape[1:]:
        advice = "convert them: x.astype(numpy.float32)" if x.dtype != np.float32 else ""
        raise bad_value(
            where, f"images of {x.dtype}, {list(x.shape)}", "float32 of (n, channels, height, width)", advice
        )
    if not len(x):
        raise bad_value(where, "no images", "at least one")
    if y.dtype != np.int64 or y.shape != (len(x),):
        raise bad_value(
            where, f"labels of {y.dtype}, {list(y.shape)}, for {len(x):,} images", f"int64 of ({len(x)},)",
            advice_for_labels(y, len(x)) or "convert them: y.astype(numpy.int64)" * (y.shape == (len(x),)),
        )  # fmt: skip
    if y.min() < 0 or y.max() >= n_classes:
        found = f"labels from {y.min()} to {y.max()} for {n_classes} classes"
        raise bad_value(where, found, f"0 to {n_classes - 1}")
    for piece in _pieces(x):
        if not np.isfinite(piece).all():
            raise bad_value(where, "NaN or infinity among the pixels", "finite numbers")
    return Split(x=np.require(x, requirements=["C", "W"]), y=np.require(y, requirements=["C", "W"]))


def _check_array(array: Any, what: str, expected: str, where: str) -> None:
    if not isinstance(array, np.ndarray):
        is_tensor = type(array).__module__.startswith("torch")
        advice = "call .detach().cpu().numpy()" if is_tensor else "numpy.asarray makes one of a list"
        raise bad_value(where, f"{what} in a {type(array).__name__}", f"a NumPy array, {expected}", advice)


def advice_for_labels(y: npt.NDArray[Any], n: int) -> str:
    """How to make one class number for each of `n` images from labels of another shape; "" if that is not known."""
    if y.shape == (n, 1):
        return "take the column: y[:, 0]"
    if y.ndim == 2 and len(y) == n:
        return "of one-hot labels take y.argmax(1)"
    return ""


def _pieces(x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [x[start : start + CHUNK] for start in range(0, len(x), CHUNK)]
