"""What a user's function returns: arrays, torch Datasets, DataLoaders. They are taken as they are, or refused."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lth_trainable.data.datasets import Dataset, load_dataset
from lth_trainable.data.feeding import AnyDataset, loaders_of
from lth_trainable.data.streamed import StreamedDataset
from lth_trainable.errors import UserError
from tests import own_data

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_data.write_folder(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTH_CACHE", str(tmp_path / "cache"))


def load(name: str, root: Path | None = None, split_seed: int = 0) -> AnyDataset:
    load_dataset.cache_clear()
    return load_dataset(f"tests.own_data:{name}", root, split_seed)


def sizes(data: AnyDataset) -> list[int]:
    return [len(split) for split in (data.train, data.valid, data.test)]


def epoch(data: AnyDataset, number: int = 0, skip: int = 0, level: int = 0) -> Batches:
    train = loaders_of(data, batch_size=16, order_seed=3).train
    train.epoch, train.skip, train.level = number, skip, level
    return list(train)


def equal(one: Batches, two: Batches) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a, b) for pair in zip(one, two, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_arrays_become_normalised_splits() -> None:
    data = load("arrays")
    assert isinstance(data, Dataset) and sizes(data) == [48, 6, 6] and data.shape == (1, 10, 10)
    assert abs(data.train.x.mean()) < 1e-5 and abs(data.train.x.std() - 1) < 1e-3
    assert load("arrays", split_seed=1).digest == data.digest


def test_named_splits_stay_and_labels_may_be_names() -> None:
    data, other = load("named_arrays"), load("named_arrays", split_seed=1)
    assert sizes(data) == [36, 4, 20] and data.shape == (3, 10, 10) and data.classes == ("left", "right")
    assert data.test.y.tolist() == own_data.labels()[40:].tolist() == other.test.y.tolist()
    assert isinstance(data, Dataset) and isinstance(other, Dataset) and (data.train.y != other.train.y).any()


def test_a_torch_dataset_is_read_once_into_arrays() -> None:
    data, same = load("torch_dataset"), load("arrays")
    assert isinstance(data, Dataset) and isinstance(same, Dataset)
    assert np.allclose(data.train.x, same.train.x, atol=1e-5) and (data.train.y == same.train.y).all()


@pytest.mark.parametrize("name", ["fastai_loaders", "torch_loaders"])
def test_an_epoch_of_loaders_follows_from_seed_and_epoch_with_any_number_of_workers(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(name, root)
    assert isinstance(data, StreamedDataset)
    whole, held = epoch(data, 1), list(loaders_of(data, batch_size=16, order_seed=3).valid)
    assert type(whole[0][0]) is torch.Tensor and whole[0][0].dtype == torch.float32
    assert equal(whole, epoch(data, 1)) and equal(whole[2:], epoch(data, 1, skip=2))
    assert not equal(whole, epoch(data, 2)) and not equal(whole, epoch(data, 1, level=1))
    assert sorted(torch.cat([y for _, y in whole]).tolist()) == sorted(data.train.y.tolist())
    monkeypatch.setenv("WORKERS", "2")
    forked = load(name, root)
    assert forked.digest == data.digest and forked.train.feed.num_workers == 2  # type: ignore[union-attr]
    assert equal(whole, epoch(forked, 1))
    assert equal(held, list(loaders_of(forked, batch_size=16, order_seed=3).valid))


def test_the_worker_processes_of_a_pass_end_with_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an exception that a transform has caught keeps the frames of the pass alive."""
    monkeypatch.setenv("WORKERS", "2")
    data, kept = load("fastai_loaders", root), []
    assert isinstance(data, StreamedDataset)
    plain = data.train.feed.finish

    def finish(batch: Any, device: torch.device) -> Any:
        try:
            raise ValueError("caught")
        except ValueError as error:
            kept.append(error)
        return plain(batch, device)

    monkeypatch.setattr(data.train.feed, "finish", finish)
    assert len(epoch(data)) == len(kept) > 1
    assert not multiprocessing.active_children()
    train = iter(loaders_of(data, batch_size=16, order_seed=3).train)
    next(train)
    assert len(multiprocessing.active_children()) == 2
    train.close()
    assert not multiprocessing.active_children()


def test_the_same_image_is_augmented_otherwise_in_another_epoch(root: Path) -> None:
    data = load("torch_loaders")
    first, second = (torch.cat([x for x, _ in epoch(data, number)]) for number in (0, 1))
    assert not torch.equal(first.flatten(1).sum(1).sort().values, second.flatten(1).sum(1).sort().values)


def test_validation_images_are_cut_into_validation_and_test(root: Path) -> None:
    data = load("fastai_loaders", root)
    assert isinstance(data, StreamedDataset) and sizes(data) == [42, 9, 9]
    assert sorted([*data.valid.indices, *data.test.indices]) == list(range(18)) and data.classes == ("left", "right")
    assert sizes(load("torch_loaders")) == [60, 16, 18]
    assert data.majority_class_accuracy == pytest.approx((data.test.y == np.bincount(data.train.y).argmax()).mean())


def test_the_digest_is_that_of_files_and_transforms(root: Path, tmp_path: Path) -> None:
    before = load("fastai_loaders", root).digest
    moved = own_data.write_folder(tmp_path / "elsewhere")
    assert load("fastai_loaders", moved).digest == before
    [first, *_] = sorted(moved.rglob("*.png"))
    first.write_bytes(next(iter(sorted((moved / "right").iterdir()))).read_bytes())
    assert load("fastai_loaders", moved).digest != before
    quiet = own_data.Items(own_data.noisy)
    digests = {load("torch_loaders").digest}
    own_data.Items.__init__.__defaults__, kept = (own_data.noisy, 60), own_data.Items.__init__.__defaults__
    try:
        digests.add(load("torch_loaders").digest)  # validation is noisy now
    finally:
        own_data.Items.__init__.__defaults__ = kept
    assert len(digests) == 2 and len(quiet) == 60


def test_the_digest_covers_how_items_are_made_of_the_same_files(root: Path) -> None:
    """By the reader and the class of the user's own, which are in one module."""
    names = ("read_plainly", "read_darkly", "scaled_by_one", "scaled_by_two")
    assert len({load(name, root).digest for name in names}) == len(names)
    assert load("read_darkly", root).digest == load("read_darkly", root).digest


def test_global_streams_are_as_before(root: Path) -> None:
    torch.manual_seed(5)
    data = load("fastai_loaders", root)
    loaders_of(data, batch_size=16, order_seed=3).valid.one_batch()
    list(loaders_of(data, batch_size=16, order_seed=3).train)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


REFUSED = {
    "random_torch_dataset": "random transforms: return DataLoaders",
    "endless": "train loader: found 'Endless, which is read from start to end'",
    "weighted": "batches drawn by WeightedRandomSampler",
    "weighted_fastai": "WeightedDL with its own get_idxs",
    "own_stream": "has a random stream of its own",
    "regression": "labels.*class number",
    "bytes_as_images": "images of torch.uint8.*expected torch.float32",
    "one_loader": r"1 loader\(s\)",
    "mixed_sizes": "images of 3 shapes",
    "nothing": "found 'NoneType'; expected a Dataset, arrays",
    "fails": "it raises KeyError",
    "floats_as_labels": "labels of float64",
    "not_finite": "NaN or infinity",
    "too_many_labels": r"x of \[60, 10, 10\] and y of \[59\]",
    "strange_names": "a dict of training",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UserError, match=REFUSED[name]) as caught:
        load(name)
    assert f"dataset tests.own_data:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_augmentation_of_the_trial_is_refused_for_loaders() -> None:
    with pytest.raises(UserError, match="their transforms"):
        loaders_of(load("torch_loaders"), batch_size=8, order_seed=0, augment="flip")
    assert os.environ.get("WORKERS") is None
