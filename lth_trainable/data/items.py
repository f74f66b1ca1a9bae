"""Images from outside as items of a data set: a file, an image, pixels, or values as the data set has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lth_trainable.data.datasets import Pixels, Split
from lth_trainable.errors import UserError, bad_value

Shape = tuple[int, ...]


def split_of(items: Sequence[Any], shape: Shape, pixels: Pixels | None) -> tuple[Split, bool]:
    """The items as a split of a data set whose images have this shape, and whether they all have labels.

    An item is an image, or a pair of an image and its label (a class number). An image is a path, a Pillow image, an
    array or tensor of whole numbers (pixels) or one of floats (values, normalised as in the data set).
    """
    pairs = [item if isinstance(item, tuple) and len(item) == 2 else (item, None) for item in items]
    x = np.empty((len(pairs), *shape), np.float32)
    for index, (image, _) in enumerate(pairs):
        x[index] = values_of(image, shape, pixels)
    labels = [int(label) for _, label in pairs if label is not None]
    labelled = len(labels) == len(pairs) > 0
    return Split(x=x, y=np.array(labels if labelled else [0] * len(pairs), np.int64)), labelled


def values_of(image: Any, shape: Shape, pixels: Pixels | None) -> npt.NDArray[np.float32]:
    """An image as values of the shape (channels, height, width). Raises `UserError` if it cannot be one."""
    if isinstance(image, str | os.PathLike):
        return _normalised(_opened(Path(image), shape), shape, pixels)
    if hasattr(image, "convert") and hasattr(image, "resize"):  # a Pillow image
        return _normalised(_fitted(image, shape), shape, pixels)
    if not isinstance(image, np.ndarray | torch.Tensor):
        raise bad_value("item", type(image).__name__, "an image: a path, a Pillow image, an array or a tensor")
    array = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image)
    if np.issubdtype(array.dtype, np.integer):
        return _normalised(array, shape, pixels)
    if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
        raise bad_value(
            "item", f"{array.dtype} of the shape {array.shape}", f"float32 of the shape {shape}, normalised as the data"
        )
    return array.astype(np.float32)


def _normalised(array: npt.NDArray[Any], shape: Shape, pixels: Pixels | None) -> npt.NDArray[np.float32]:
    """Pixels (channels, height, width), or with channels last, or without, as values."""
    channels, height, width = shape
    if array.shape == (height, width) and channels == 1:
        array = array[None]
    elif array.shape == (height, width, channels) and array.shape != shape:
        array = array.transpose(2, 0, 1)
    if array.shape != shape:
        raise bad_value("item: shape of its pixels", array.shape, f"{shape}, or {(height, width, channels)}")
    if pixels is None:
        raise UserError(
            "item: found pixels, but the data set does not say how it normalises them (Dataset.pixels); expected a"
            " float array or tensor that is normalised as the data set's images are"
        )
    return pixels.normalised(array[None])[0]


def _opened(file: Path, shape: Shape) -> npt.NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return _fitted(image, shape)
    except OSError as error:  # no such file, or no image
        raise UserError(f"item: {file} cannot be read as an image ({error})") from error


def _fitted(image: Any, shape: Shape) -> npt.NDArray[Any]:
    """The centre of an image, in the size and with the channels of the data set, as its own files are decoded."""
    from PIL import Image

    channels, height, width = shape
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise bad_value("item", "an image", f"an array of {channels} channels", "images have 1, 3 or 4 channels")
    image = image.convert(modes[channels])
    if image.size != (width, height):
        side = min(image.size[0] / width, image.size[1] / height)
        cut = round(side * width), round(side * height)
        left, top = (image.size[0] - cut[0]) // 2, (image.size[1] - cut[1]) // 2
        image = image.crop((left, top, left + cut[0], top + cut[1]))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    found = np.asarray(image, np.uint8).reshape(height, width, channels)
    return found.transpose(2, 0, 1)
