"""What a user's `module:function` returns, as a data set: arrays, a torch Dataset, or fastai DataLoaders.

| returned | becomes |
|---|---|
| a `Dataset` of this project | itself |
| `(x, y)` | split by the split seed: 80 / 10 / 10 % |
| `{"train": ..., "valid": ..., "test": ...}`, each `(x, y)` or a torch Dataset | these splits; a missing one is drawn |
| a torch Dataset | `(x, y)`: each item is read once |
| fastai `DataLoaders` | streamed: the user's loaders stay (`streamed.py`) |

Arrays are normalised by mean and standard deviation of each channel of the training split.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lth_trainable.data.class_folders import check_room
from lth_trainable.data.given import SPLITS, advice_for_labels, check_training, given
from lth_trainable.data.pixels import no_clipping
from lth_trainable.data.splits import Dataset, content_digest, held_out, split
from lth_trainable.errors import UserError, bad_value, words_of
from lth_trainable.registry import check_call, printing_aside
from lth_trainable.seeds import derive_seed
from lth_trainable.silence import pulse
from lth_trainable.streams import seed_all, streams_put_back

if TYPE_CHECKING:
    from lth_trainable.data.streamed import StreamedDataset

ACCEPTED = "a Dataset, arrays (x, y), a torch Dataset, a dict of these by train, valid and test, or fastai DataLoaders"
READ_TWICE = 3  # items of a torch Dataset that are read twice, to see whether they are the same

NO_PIXELS = ("P", "PA", "LA", "La", "1")  # modes of Pillow: numbers of colours, transparency, truth values

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def load_own(name: str, function: Callable[..., Any], root: Path | None, split_seed: int) -> Dataset | StreamedDataset:
    """Call a user's function and make a data set of what it returns. Raises `UserError` with the reason.

    Global random streams are seeded by the split seed first, so a split that the function draws is always the same.
    """
    where = f"dataset {name}"
    try:
        with streams_put_back(), no_clipping():
            return _made_of(where, _call(where, function, root, split_seed), split_seed)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # any exception here is due to what the user's function returns
        reason = f"{type(error).__name__}: {words_of(error)}"
        raise UserError(f"{where}: what it returns cannot be read: {reason}") from error


def _made_of(where: str, made: Any, split_seed: int) -> Dataset | StreamedDataset:
    if isinstance(made, Dataset):
        return given(made, where)
    if type(made).__module__.startswith("fastai.") and hasattr(made, "loaders"):
        from lth_trainable.data.user_loaders import streamed

        return streamed(made, where, split_seed)
    return _of_arrays(where, _parts(where, made), split_seed)


def _call(where: str, function: Callable[..., Any], root: Path | None, split_seed: int) -> Any:
    check_call(where, function, "f(root, split_seed)", root, split_seed)
    seed = derive_seed(split_seed, "data set")
    before = _LATE & sys.modules.keys()
    try:
        made = _seeded(function, root, split_seed, seed)
        if before != _LATE & sys.modules.keys():  # imported in the function: its stream was not seeded yet
            made = _seeded(function, root, split_seed, seed)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # any exception here is a mistake in the user's function
        raise UserError(f"{where}: it raises {type(error).__name__}: {words_of(error)}") from error
    return made


_LATE = {"torch", "fastai.torch_core"}  # modules that may be imported by the function itself


def _seeded(function: Callable[..., Any], root: Path | None, split_seed: int, seed: int) -> Any:
    """Call a function with all streams seeded, and with the CPU as fastai's device.

    On a GPU fastai would normalise by a batch with other augmentation than on a machine without one.
    """
    seed_all(seed)
    fastai = sys.modules.get("fastai.torch_core")
    if fastai is None:
        with printing_aside():
            return function(root, split_seed)
    device = getattr(fastai.defaults, "use_cuda", None)
    fastai.default_device(False)
    try:
        with printing_aside():
            return function(root, split_seed)
    finally:
        fastai.defaults.use_cuda = device


def _parts(where: str, made: Any) -> dict[str, Arrays]:
    """Images and labels by split; {"all": ...} if they are not split yet."""
    if not isinstance(made, Mapping):
        return {"all": _pair(where, made)}
    if not made or not set(made) <= set(SPLITS) or "train" not in made:
        raise bad_value(where, f"a dict of {', '.join(map(str, made))}", "train, and if you have them valid and test")
    return {name: _pair(f"{where}, {name}", made[name]) for name in SPLITS if name in made}


def _pair(where: str, made: Any) -> Arrays:
    if isinstance(made, tuple | list) and len(made) == 2 and all(hasattr(part, "shape") for part in made):
        x, y = (_as_array(part) for part in made)
    elif _is_torch_dataset(made):
        x, y = _read(where, made)
    else:
        raise bad_value(where, _what(made), ACCEPTED)
    if x.ndim == 0 or y.ndim != 1 or len(x) != len(y):
        found = f"x of {list(x.shape)} and y of {list(y.shape)}"
        raise bad_value(where, found, "one label for each image", advice_for_labels(y, len(x) if x.ndim else 0))
    return _as_images(where, x), y


def _what(made: Any) -> str:
    if isinstance(made, tuple | list):
        return f"a {type(made).__name__} of {len(made)}: {', '.join(type(part).__name__ for part in made[:4])}"
    return type(made).__name__


def _as_array(part: Any) -> npt.NDArray[Any]:
    if not hasattr(part, "detach"):
        return np.asarray(part)
    part = part.detach().cpu()
    return np.asarray(part.float() if str(part.dtype) == "torch.bfloat16" else part)


def _as_images(where: str, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, channels, height, width), uint8 or float32. Channels may also come last, if there are 1, 3 or 4."""
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim and not len(x):
        raise bad_value(where, "no images", "at least one")
    if x.ndim != 4 or x.dtype.kind not in "uif" or 0 in x.shape:
        raise bad_value(
            where, f"images of {x.dtype}, {list(x.shape)}",
            "numbers of (n, height, width), (n, channels, height, width) or (n, height, width, channels)",
        )  # fmt: skip
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise bad_value(where, "NaN or infinity among the pixels", "finite numbers")
    return np.ascontiguousarray(x)


def _is_torch_dataset(made: Any) -> bool:
    torch_data = sys.modules.get("torch.utils.data")
    return torch_data is not None and isinstance(made, torch_data.Dataset)


def _read(where: str, dataset: Any) -> Arrays:
    """Every item of a torch Dataset, as arrays. Raises `UserError` for one whose items change or have other shapes."""
    if not hasattr(type(dataset), "__len__"):
        raise bad_value(
            where, f"{type(dataset).__name__}, a Dataset without a length",
            "items by their number, so that each trial can draw its own order", "give it __len__ and __getitem__",
        )  # fmt: skip
    n = len(dataset)
    items = []
    for index in range(n):
        image, label = _item(where, dataset, index, 0)
        if index < READ_TWICE and not np.array_equal(image, _item(where, dataset, index, 1)[0]):
            raise bad_value(
                where, f"another image when item {index} is read again", "the same one",
                "it has random transforms: return DataLoaders to keep them, or use --augment",
            )  # fmt: skip
        if index == 0:
            check_room(f"{n:,} images of {list(image.shape)}", n * image.size * 5)
        items.append((image, label))
        pulse.beat()
    shapes = sorted({image.shape for image, _ in items})
    if len(shapes) != 1:
        found = f"images of {len(shapes)} shapes, such as {', '.join(str(list(shape)) for shape in shapes[:2])}"
        raise bad_value(where, found, "one shape" if shapes else "at least one image", "resize in its transform")
    return np.stack([image for image, _ in items]), np.asarray([label for _, label in items])


def _item(where: str, dataset: Any, index: int, attempt: int) -> tuple[npt.NDArray[Any], Any]:
    seed_all(derive_seed(attempt, "content", index))
    try:
        found = dataset[index]
    except Exception as error:  # any exception here is a mistake in the user's data set
        from lth_trainable.data.feeds import name_of_item  # whoever returns a torch Dataset has imported torch

        kind = "" if isinstance(error, UserError) else f" raises {type(error).__name__}"
        raise UserError(f"{where}: {name_of_item(dataset, index)}{kind}: {words_of(error)}") from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise bad_value(f"{where}, item {index}", _what(found), "an image and its class number")
    image, label = found
    if getattr(image, "mode", None) in NO_PIXELS and hasattr(image, "getbands"):
        raise bad_value(
            f"{where}, item {index}", f"an image of mode {image.mode}, whose values are not all brightness",
            "mode L or RGB", 'convert it in the transform: image.convert("RGB")',
        )  # fmt: skip
    return _as_array(image), label.item() if hasattr(label, "item") else label


def _of_arrays(where: str, parts: dict[str, Arrays], split_seed: int) -> Dataset:
    shapes = {x.shape[1:] for x, _ in parts.values()}
    if len(shapes) != 1 or len({x.dtype for x, _ in parts.values()}) != 1:
        found = "; ".join(f"{name}: {x.dtype} of {list(x.shape)}" for name, (x, _) in parts.items())
        raise bad_value(where, found, "the same type and image shape in all splits")
    x, labels = (np.concatenate([pair[place] for pair in parts.values()]) for place in (0, 1))
    y, classes = _classes(where, labels)
    of_split = np.repeat(list(parts), [len(pair[1]) for pair in parts.values()])
    own = {name: of_split == name if name in parts else None for name in ("valid", "test")}
    marks = [mark for mark in own.values() if mark is not None]
    if own["test"] is None and marks:  # the same images for the test are other data
        marks.append(np.zeros(0, bool))
    sizes = held_out(where, len(x), own)
    data = split(
        x, y, classes, sizes=sizes, seed=split_seed, scale=255 if x.dtype == np.uint8 else 1, test=own["test"],
        valid=own["valid"],
    )  # fmt: skip
    check_training(data.train, where)
    return replace(data, digest=content_digest(x, y, *marks))


def _classes(where: str, labels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Class numbers and names: the labels that there are, sorted."""
    if labels.dtype == object and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    if labels.dtype.kind not in "iubU":
        raise bad_value(where, f"labels of {labels.dtype}", "class numbers or names", "trials train classifiers")
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise bad_value(where, f"the label {labels.min()}", "class numbers from 0 on, or names")
    names, y = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise bad_value(where, f"{len(names)} class", "at least 2")
    return y.astype(np.int64), tuple(str(name) for name in names.tolist())
