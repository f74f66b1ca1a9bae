"""What a user's data consist of, as a digest and as labels: files, arrays, items, and the code of their transforms.

Files are read as bytes, arrays as they are. Where neither can be found, each item is made once with seeded streams.
Transforms count by the source of their modules and by their plain attributes, as far as these can be read.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import numbers
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fastai.data.core import Datasets, TfmdLists
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lth_trainable.data.cache import cache_folder, keep_text
from lth_trainable.data.image_folders import Entry, key_of
from lth_trainable.data.pixels import refuse_clipped
from lth_trainable.data.splits import CHUNK
from lth_trainable.errors import bad_value
from lth_trainable.seeds import derive_seed
from lth_trainable.silence import pulse
from lth_trainable.streams import seed_all

DEPTH = 6  # of attributes within attributes of transforms
_PLAIN = (
    str, bytes, numbers.Number, np.generic, np.ndarray, torch.Tensor, list, tuple, dict, set, frozenset, type(None)
)  # fmt: skip
Labels = npt.NDArray[np.int64]


class Digest:
    """A SHA-256 that takes values of any kind. What it cannot read counts by its type."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def text(self, *texts: Any) -> None:
        self.sha.update("\0".join(map(str, texts)).encode() + b"\1")

    def value(self, value: Any, depth: int = DEPTH) -> None:
        """Add a value: plain ones and arrays by content, files by their bytes, objects by code and attributes."""
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray) and value.dtype != object:
            self.text("array", value.dtype.str, value.shape)
            self.sha.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        elif value is None or isinstance(value, str | bytes | numbers.Number | np.generic):
            self.text(type(value).__name__, value)
        elif isinstance(value, type) or inspect.isroutine(value):
            self.code(value)
        elif isinstance(value, Path):
            self.text("path")  # where files are does not matter
        elif hasattr(value, "getbands") and hasattr(value, "tobytes"):  # an image of Pillow
            self.text("image", value.mode, value.size)
            self.sha.update(value.tobytes())
        elif depth == 0:
            self.text("deeper", type(value).__name__)
        else:
            self._composed(value, depth - 1)

    def _composed(self, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            self.text("mapping", len(value))
            for key in sorted(value, key=str):
                self.text(key)
                self.value(value[key], depth)
        elif isinstance(value, set | frozenset):
            self.value(sorted(map(str, value)), depth)
        elif isinstance(value, functools.partial):
            self.value((value.func, value.args, value.keywords), depth)
        elif isinstance(value, Collection) and not callable(value):
            self.text("sequence", len(value))
            for part in value:
                self.value(part, depth)
        else:
            self.code(type(value))
            self.value(_attributes(value), depth)

    def code(self, thing: Any) -> None:
        """Add a class or function by its name, the source of its module if there is one, and what it encloses."""
        thing = inspect.unwrap(thing) if callable(thing) else thing
        module = getattr(thing, "__module__", None)
        name = getattr(thing, "__qualname__", type(thing).__name__)
        self.text("code", module, name, _source_digest(module))
        if name.endswith("<lambda>"):  # several in one scope have the same name
            self.text("line", thing.__code__.co_firstlineno)
        for cell in getattr(thing, "__closure__", None) or ():
            try:
                self.value(cell.cell_contents, 1)
            except ValueError:  # an empty cell
                self.text("empty")

    def hexdigest(self) -> str:
        return self.sha.hexdigest()


@functools.cache
def _source_digest(module: str | None) -> str:
    """SHA-256 (hex) of a module's source; "" for a compiled one and for what was typed into an interpreter."""
    loaded = sys.modules.get(module or "")
    try:
        file = None if loaded is None else inspect.getsourcefile(loaded)
        return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (OSError, TypeError):  # a built-in module, or a file that is gone
        return ""


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object that say what it does; not what it remembers of its last call, nor its loaders."""
    own: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    if isinstance(value, torch.nn.Module):
        own |= dict(value.named_parameters()) | dict(value.named_buffers()) | dict(value.named_children())
    return {
        name: found for name, found in own.items()
        if not name.startswith("_") and (isinstance(found, _PLAIN) or callable(found))
    }  # fmt: skip


def read_content(dataset: Any, item: Callable[[int], Any], digest: Digest) -> Labels:
    """Add a data set to the digest and return the labels of its items (n,). item: makes the item of an index."""
    if isinstance(dataset, Subset):
        indices = np.asarray(dataset.indices, np.int64)
        digest.value(indices)
        return read_content(dataset.dataset, lambda index: dataset.dataset[index], digest)[indices]
    if isinstance(dataset, ConcatDataset):
        parts = [read_content(part, part.__getitem__, digest) for part in dataset.datasets]
        return np.concatenate(parts)
    makes_items = not _is_of_library(type(dataset).__getitem__)  # in its own way, from whatever it holds
    if isinstance(dataset, TensorDataset) and not makes_items:
        for images in dataset.tensors[0].split(CHUNK):
            refuse_not_finite("its items", images)
        digest.value(dataset.tensors)
        return as_labels(dataset.tensors[-1])
    if isinstance(dataset, Datasets) and len(dataset.tls) == 2:
        for part in dataset.tls:
            digest.value(list(part.tfms.fs))
        _add_inputs(dataset.tls[0], digest)
        labels = [dataset.tls[1][index] for index in range(len(dataset))]
        digest.value(list(map(int, labels)))
        return as_labels(labels)
    for name in ("transform", "target_transform", "transforms"):
        digest.value(getattr(dataset, name, None))
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and samples and all(_is_file(sample[0]) for sample in samples):
        files = [Path(sample[0]) for sample in samples]
        add_files(files, digest)
        _add_own_ways(dataset, digest, makes_items)
        refuse_clipped(files, dataset.__getitem__)
        labels = [sample[1] for sample in samples]
        digest.value(labels)
        return _with_target_transform(dataset, labels)
    data, targets = getattr(dataset, "data", None), getattr(dataset, "targets", None)
    is_held = isinstance(data, np.ndarray | torch.Tensor) and targets is not None and len(targets) == len(data)
    if is_held and not makes_items:
        digest.value(data)
        digest.value(np.asarray(targets))
        return _with_target_transform(dataset, targets)
    return _of_items(range(len(dataset)), item, digest)


_LIBRARIES = ("torch", "torchvision", "fastai", "fastcore")


def _add_own_ways(dataset: Any, digest: Digest, makes_items: bool) -> None:
    """Add how a data set of files makes items of them, if its loader or its class is the user's own."""
    loader = getattr(dataset, "loader", None)
    if callable(loader) and not _is_of_library(loader):
        digest.value(loader)
    if makes_items:
        digest.code(type(dataset))
        digest.value({name: value for name, value in vars(dataset).items() if isinstance(value, numbers.Number)})


def _is_of_library(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in _LIBRARIES


def _with_target_transform(dataset: Any, labels: Any) -> Labels:
    change = getattr(dataset, "target_transform", None)
    return as_labels(labels if change is None else [change(label) for label in labels])


def _of_items(indices: Iterable[int], item: Callable[[int], Any], digest: Digest) -> Labels:
    labels = []
    for index in indices:
        seed_all(derive_seed(0, "content", index))
        found = item(index)
        digest.value(found)
        if not isinstance(found, tuple | list) or len(found) != 2:
            what = f"{len(found)} values" if isinstance(found, tuple | list) else type(found).__name__
            raise bad_value(f"item {index}", what, "an image and its class number")
        refuse_not_finite(f"item {index}", found[0])
        labels.append(found[1])
        pulse.beat()
    return as_labels(labels)


def refuse_not_finite(where: str, images: Any) -> None:
    """Raise `UserError` if there is NaN or infinity in a tensor or array."""
    values = images.detach() if isinstance(images, torch.Tensor) else images
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        values = torch.from_numpy(np.ascontiguousarray(values))
    if isinstance(values, torch.Tensor) and not values.isfinite().all():
        raise bad_value(where, "NaN or infinity among the pixels", "finite numbers")


def _add_inputs(part: TfmdLists, digest: Digest) -> None:
    """Add the inputs of a fastai data set: the files that its items name, or what its transforms make of the items."""
    items = list(part.items)
    if items and all(isinstance(item, Path) and item.is_file() for item in items):
        add_files(items, digest)
        refuse_clipped(items, part.__getitem__)
        return
    for index in range(len(items)):
        seed_all(derive_seed(0, "content", index))
        digest.value(part[index])
        pulse.beat()


def add_files(files: list[Path], digest: Digest) -> None:
    """Add the bytes of files, in this order. Their SHA-256 is kept in the cache folder, by paths, sizes and times."""
    entries = [Entry(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    kept = cache_folder() / f"bytes-{key_of(('bytes', 1), entries)}.txt"
    known = kept.read_text(encoding="ascii", errors="replace").strip() if kept.is_file() else ""
    if len(known) != 64:
        sha = hashlib.sha256()
        for file in files:
            sha.update(hashlib.sha256(file.read_bytes()).digest())
            pulse.beat()
        known = sha.hexdigest()
        keep_text(kept, known)
    digest.text("files", len(files), known)


def _is_file(path: Any) -> bool:
    return isinstance(path, str | Path) and Path(path).is_file()


def as_labels(values: Any) -> Labels:
    """Class numbers (n,) int64. Raises `UserError` for anything else."""
    if isinstance(values, list | tuple):
        values = [value.item() if hasattr(value, "item") else value for value in values]
    found = np.asarray(values)
    if found.ndim != 1 or found.dtype.kind not in "iub":
        what = f"{found.dtype} of shape {list(found.shape)}"
        raise bad_value("labels", what, "one class number (0, 1, ...) for each image", "trials train classifiers")
    return found.astype(np.int64)
