"""The contracts of a data set."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lth_trainable.contracts.common import ContractError, as_contracts, serialisable
from lth_trainable.data.datasets import DATASETS, Dataset, Loader
from lth_trainable.data.feeding import AnyDataset, loaders_of
from lth_trainable.data.given import given
from lth_trainable.data.own import load_own
from lth_trainable.data.streamed import StreamedDataset


@dataclass(frozen=True, kw_only=True)
class Rooted:
    """A loader that is checked with the files of a folder. name: for messages."""

    name: str
    loader: Loader
    root: Path | None


Checked = Loader | Rooted


def splits_fit(loader: Checked) -> None:
    """It has three splits of float32 images (n, channels, height, width) and int64 labels below the class count.

    `own.py` and `given.py` say what is wrong when they load it. Loaders of the user's own are tried on a few images of
    each split then.
    """
    data = _load(loader)
    if isinstance(data, Dataset):
        given(data, _rooted(loader).name)


def splits_are_disjoint(loader: Checked) -> None:
    """Training, validation and test split are disjoint and depend on the split seed alone."""
    data, other = _load(loader), _load(loader, split_seed=1)
    sizes = [[len(split) for split in (d.train, d.valid, d.test)] for d in (data, other)]
    if sizes[0] != sizes[1]:
        raise ContractError(f"its splits have other sizes with another split seed: {sizes[0]} and {sizes[1]}")
    if isinstance(data, StreamedDataset):
        return  # its images are not looked at; the halves of one loader's data are disjoint
    for (one, x), (two, y) in itertools.combinations([("train", data.train.x), *_held_out(data)], 2):
        seen = {image.tobytes() for image in x}
        shared = sum(image.tobytes() in seen for image in y)
        if shared > len(y) / 10:  # a few images may be in the collection twice
            raise ContractError(f"{shared} of the {len(y)} images of its {two} split are in its {one} split too")


def same_content_same_digest(loader: Checked) -> None:
    """Loaded twice, everything is equal. The digest of a shipped data set does not depend on the split."""
    first, second, other = _load(loader), _load(loader), _load(loader, split_seed=1)
    if not isinstance(first, Dataset) or not isinstance(second, Dataset):
        if first.digest != second.digest:
            raise ContractError("loaded twice with one split seed, its data, labels or transforms differ")
        return
    equal = all(
        np.array_equal(getattr(first, name).x, getattr(second, name).x)
        and np.array_equal(getattr(first, name).y, getattr(second, name).y)
        for name in ("train", "valid", "test")
    )
    if not equal or first.digest != second.digest:
        raise ContractError("loaded twice with one split seed, it differs; shuffle by the split seed only")
    if _is_shipped(_rooted(loader)) and first.digest != other.digest:
        raise ContractError("its digest changes with the split seed; it must be of the content before the split")


def repeats_by_seed_and_epoch(loader: Checked) -> None:
    """The training batches of an epoch depend on (seed, epoch) alone, and may start in the middle of the epoch."""
    data = _load(loader)
    whole, again = (_first_batches(data, epoch=1) for _ in range(2))
    if not _equal(whole, again):
        raise ContractError("an epoch that is made again has other batches: something draws from a stream of its own")
    if not _equal(whole[1:], _first_batches(data, epoch=1, skip=1)):
        raise ContractError("an epoch that starts at its second batch has other batches than the whole one")
    if len(data.train) > 8 and _equal(whole, _first_batches(data, epoch=2)):
        raise ContractError("two epochs have the same batches, so the order of the images is not drawn for each")


def _first_batches(data: AnyDataset, *, epoch: int, skip: int = 0) -> list[Any]:
    train = loaders_of(data, batch_size=min(8, -(-len(data.train) // 2)), order_seed=0).train
    train.epoch, train.skip = epoch, skip
    return list(itertools.islice(train, 3 - skip))


def _equal(one: list[Any], two: list[Any]) -> bool:
    return all(np.array_equal(a, b) for pair in zip(one, two, strict=True) for a, b in zip(*pair, strict=True))


def _held_out(data: Dataset) -> list[tuple[str, Any]]:
    return [("valid", data.valid.x), ("test", data.test.x)]


def _load(loader: Checked, split_seed: int = 0) -> AnyDataset:
    own = _rooted(loader)
    if _is_shipped(own):
        return own.loader(own.root, split_seed)
    return load_own(own.name, own.loader, own.root, split_seed)


def _is_shipped(own: Rooted) -> bool:
    return own.loader in DATASETS.values()


def _rooted(loader: Checked) -> Rooted:
    if isinstance(loader, Rooted):
        return loader
    return Rooted(name=str(getattr(loader, "__name__", "plug-in")), loader=loader, root=None)


CONTRACTS = as_contracts(
    splits_fit, splits_are_disjoint, same_content_same_digest, repeats_by_seed_and_epoch, serialisable
)
