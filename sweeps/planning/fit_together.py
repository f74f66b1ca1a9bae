"""Whether the networks of a plan can be trained on its data, in batches of its sizes: tried before Ray starts.

Plug-ins and networks of libraries are tried on noise in the shape of the images. `python -m lth_trainable.check` makes
the same checks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lth_trainable.data.datasets import DATASETS, Dataset, load_dataset, no_augmentation
from lth_trainable.data.own import load_own
from lth_trainable.errors import UserError
from lth_trainable.models.networks import build, check_images
from lth_trainable.registry import LIBRARIES, code_digest, lookup, not_covered
from lth_trainable.silence.limit import SLOW, announced
from lth_trainable.spec.trial_spec import DataKey, TrialSpec

if TYPE_CHECKING:
    from lth_trainable.data.feeding import AnyDataset

SMALL = 16 << 20  # bytes of training images up to which a user's data set is loaded twice
Shape = tuple[int, int, int]


def check_fit_together(specs: Iterable[TrialSpec], data_root: Path | None) -> None:
    """Raise `UserError` with the reason if a network cannot be trained on its data, or not in these batches.

    Also if the images come from a user's DataLoaders and are to be augmented.
    """
    specs = list(specs)
    of_tickets = {_tried_with(spec) for spec in specs if not spec.is_dense}  # which say what their dense ones would
    distinct = {
        (*_tried_with(spec), _layers_of(spec)): spec
        for spec in specs
        if not spec.is_dense or _tried_with(spec) not in of_tickets
    }
    for spec in sorted(distinct.values(), key=lambda spec: (str(spec.data_key), spec.model, spec.batch_size)):
        data = check_network(spec, data_root)
        last = len(data.train) % spec.batch_size or min(spec.batch_size, len(data.train))
        if last == 1:
            _check_last_batch(spec, data)
        for name, split in (("valid", data.valid), ("test", data.test)):
            if len(split) % split.evaluation_batch == 1 or split.evaluation_batch == 1:
                _check_evaluated(spec, name, data)


def check_network(spec: TrialSpec, data_root: Path | None) -> AnyDataset:
    """Raise `UserError` if the data set cannot be loaded, or if the network cannot be trained on its images at all."""
    dataset, *settings = spec.data_key
    data = load_dataset(dataset, data_root, *settings)
    if ":" in dataset and isinstance(data, Dataset) and data.train.x.nbytes <= SMALL:
        _check_same_twice(spec.data_key, data_root, code_digest(dataset), data.digest)
    if spec.augment != "none" and not isinstance(data, Dataset):
        raise no_augmentation(spec.augment)
    check_images(spec.model, data.shape)
    if spec.model.partition(":")[0] in LIBRARIES:
        _check_library_network(spec.model, data.shape, len(data.classes))
    elif ":" in spec.model:
        with announced(SLOW, f"model {spec.model}"):
            fault = _fault(spec.model, code_digest(spec.model), data.shape, len(data.classes), _layers_of(spec))
        if fault:
            raise UserError(f"model {spec.model}: {fault}")
    return data


def keys_do_not_cover(specs: Iterable[TrialSpec]) -> list[str]:
    """What the keys of these trials do not cover of their plug-ins, one line for each."""
    named = {(kind, getattr(spec, kind)) for spec in specs for kind in ("dataset", "model", "criterion", "schedule")}
    found = {f"{kind} {name}": not_covered(kind, name) for kind, name in named if name is not None}
    return [f"{name}: {gaps}" for name, gaps in sorted(found.items()) if gaps]


def _tried_with(spec: TrialSpec) -> tuple[DataKey, str, int, str]:
    return spec.data_key, spec.model, spec.batch_size, spec.augment


def _layers_of(spec: TrialSpec) -> str:
    return "all" if spec.is_dense else spec.layers


@functools.cache
def _check_library_network(model: str, shape: Shape, n_classes: int) -> None:
    """Raise `UserError` if a network of a library cannot be built for these images."""
    build(model, shape, n_classes)


@functools.cache
def _check_same_twice(data_key: DataKey, data_root: Path | None, code: str | None, digest: str) -> None:
    """Raise `UserError` if a user's function gives other data when it is called again. code: see `_fault`."""
    dataset, split_seed, *_ = data_key
    if load_own(dataset, lookup("dataset", dataset, DATASETS), data_root, split_seed).digest != digest:
        raise UserError(
            f"dataset {dataset}: found other images or labels when it is loaded again; expected the same for the same "
            "split seed; draw from numpy.random.default_rng(split_seed) or the global streams only"
        )


@functools.cache
def _fault(name: str, code: str | None, shape: Shape, n_classes: int, layers: str) -> str:
    """What is wrong with a user's network; "" for a fine one. code: its digest, since it may be edited in a session."""
    from lth_trainable.contracts import CONTRACTS, serialisable, what_breaks  # torch, which a plug-in needs anyway
    from lth_trainable.contracts.models import For
    from lth_trainable.models.networks import find_builder

    case = For(builder=find_builder(name), shape=shape, n_classes=n_classes, layers=layers)
    checks = [contract for contract in CONTRACTS["model"] if contract.check is not serialisable]
    return next(filter(None, (what_breaks(contract, case) for contract in checks)), "")


@functools.cache
def _refusal_of_one(name: str, code: str | None, shape: Shape, n_classes: int, training: bool) -> str:
    from lth_trainable.contracts.models import For, refusal_of_one
    from lth_trainable.models.networks import find_builder

    return refusal_of_one(For(builder=find_builder(name), shape=shape, n_classes=n_classes), training)


def _check_last_batch(spec: TrialSpec, data: AnyDataset) -> None:
    """Raise `UserError` if the network cannot be trained with the one image that the last batch of an epoch has."""
    n = len(data.train)
    refusal = _refusal_of_one(spec.model, code_digest(spec.model), data.shape, len(data.classes), True)
    if refusal:
        near = (spec.batch_size + sign * step for step in itertools.count(1) for sign in (1, -1))
        fits = next(size for size in near if size > 1 and n % size != 1)
        raise UserError(
            f"batch_size: found {spec.batch_size} for {n:,} training images, whose last batch has 1 image, and the "
            f"network {spec.model} needs more in training: {refusal}; expected another batch size, such as {fits}"
        )


def _check_evaluated(spec: TrialSpec, split: str, data: AnyDataset) -> None:
    """Raise `UserError` if the network cannot evaluate the one image that the last batch of a split has."""
    refusal = _refusal_of_one(spec.model, code_digest(spec.model), data.shape, len(data.classes), False)
    if refusal:
        raise UserError(
            f"dataset {spec.dataset}, {split}: found {len(getattr(data, split)):,} images, whose last batch has 1 "
            f"image, and the network {spec.model} needs more in evaluation: {refusal}; expected one image more or less"
        )
