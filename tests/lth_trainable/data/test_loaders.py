from __future__ import annotations

import numpy as np
import pytest
import torch
from fastai.callback import schedule  # noqa: F401  (fit_one_cycle, lr_find)
from fastai.learner import Learner
from fastai.metrics import accuracy

from lth_trainable.data.datasets import DATASETS, IN_FILES, Dataset, digits, load_dataset
from lth_trainable.data.loaders import ResidentLoader, resident_loaders
from lth_trainable.models.networks import lenet_300_100


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits(None, 0)


def loaders(data: Dataset, seed: int = 0) -> ResidentLoader:
    return resident_loaders(data, batch_size=60, order_seed=seed)


def test_digits_are_split_1150_287_360_without_overlap(data: Dataset) -> None:
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1150, 287, 360]
    assert data.shape == (1, 8, 8) and data.train.x.dtype == np.float32
    assert abs(data.train.x.mean()) < 1e-6 and abs(data.train.x.std() - 1) < 1e-6
    rows = np.concatenate([p.x.reshape(len(p), -1) for p in (data.train, data.valid, data.test)])
    from sklearn.datasets import load_digits

    assert len(np.unique(rows, axis=0)) == len(np.unique(load_digits().data, axis=0))


def test_splits_are_fixed_and_only_the_split_seed_moves_them(data: Dataset) -> None:
    again, other = digits(None, 0), digits(None, 1)
    assert (again.train.x == data.train.x).all() and again.digest == data.digest == other.digest
    assert (other.train.y != data.train.y).any()


def test_datasets_are_decoded_once_a_process() -> None:
    for name in sorted(DATASETS.keys() - set(IN_FILES)):
        assert load_dataset(name) is load_dataset(name)


def test_every_picture_once_an_epoch_in_an_order_of_seed_and_epoch(data: Dataset) -> None:
    def epoch(seed: int, number: int) -> torch.Tensor:
        train = loaders(data, seed).train
        train.epoch = number
        return torch.cat([x for x, _ in train]).flatten(1)

    first = epoch(0, 3)
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, data.train.x.reshape(1150, -1).tolist()))
    assert torch.equal(first, epoch(0, 3))
    assert not torch.equal(first, epoch(0, 4)) and not torch.equal(first, epoch(1, 3))


def test_the_order_does_not_depend_on_what_was_read_before(data: Dataset) -> None:
    train = loaders(data).train
    for _ in train:
        pass
    second = [y for _, y in train]
    fresh = loaders(data).train
    fresh.epoch = 1
    fresh.one_batch()
    assert all(torch.equal(a, b) for a, b in zip(second, (y for _, y in fresh), strict=True))


@pytest.mark.parametrize("changed", [{}, {"epoch": 7}, {"level": 2}, {"order_seed": 5}])
def test_an_order_that_was_drawn_ahead_is_that_of_the_pass_that_comes(data: Dataset, changed: dict[str, int]) -> None:
    train: ResidentLoader = resident_loaders(data, batch_size=60, order_seed=3).train
    train.draw_ahead()
    train.draw_ahead()
    first = train.order()
    train.draw_ahead()
    train.end_pass()
    for name, value in changed.items():
        setattr(train, name, value)
    fresh = train.new(shuffle=True)
    fresh.level = train.level
    orders = [train.order(), train.order(), fresh.order()]
    assert torch.equal(orders[0], orders[2]) and torch.equal(orders[1], orders[2])
    assert not torch.equal(orders[0], first)


def test_one_batch_is_the_first_of_the_epoch(data: Dataset) -> None:
    dls = loaders(data)
    for loader in (dls.train, dls.valid):
        x, y = loader.one_batch()
        first_x, first_y = next(iter(loader))
        assert torch.equal(x, first_x[: len(x)]) and torch.equal(y, first_y[: len(y)])


def test_drop_in_for_fastais_own_loaders(data: Dataset) -> None:
    torch.manual_seed(0)
    dls = loaders(data)
    learn = Learner(dls, lenet_300_100(data.shape, dls.c), metrics=accuracy)
    with learn.no_logging(), learn.no_mbar():
        learn.fit(2, 1e-3)
        learn.fit_one_cycle(1, 1e-3)
        assert learn.lr_find(num_it=15, show_plot=False).valley > 0
        predictions, targets = learn.get_preds()
        _, metric = learn.validate()
        test_predictions, _ = learn.get_preds(ds_idx=2)
    assert torch.equal(targets, torch.from_numpy(data.valid.y)) and len(test_predictions) == 360
    assert metric == pytest.approx(float((predictions.argmax(1) == targets).float().mean())) and metric > 0.8


def test_an_order_or_an_augmentation_of_ones_own_names_the_stream(data: Dataset) -> None:
    def batches(level: int, skip: int = 0, augment: str = "flip_shift") -> list[torch.Tensor]:
        train = resident_loaders(data, batch_size=230, order_seed=0, augment=augment).train
        train.epoch, train.level, train.skip = 2, level, skip
        assert len(train) == 5 - skip
        return [x for x, _ in train]

    first = batches(0)
    assert all(torch.equal(a, b) for a, b in zip(first[2:], batches(0, skip=2), strict=True))
    assert not torch.equal(first[0], batches(1)[0])
    plain = batches(0, augment="none")
    assert not torch.equal(first[0], plain[0]) and torch.equal(plain[2], batches(0, skip=2, augment="none")[0])


def test_what_a_pass_leaves_out_the_next_one_does_not(data: Dataset) -> None:
    train = resident_loaders(data, batch_size=230, order_seed=0).train
    train.skip = 3
    assert [len(list(train)), len(list(train)), train.epoch] == [2, 5, 2]


def test_validation_and_test_pictures_are_never_augmented(data: Dataset) -> None:
    dls = resident_loaders(data, batch_size=230, order_seed=0, augment="flip_shift")
    for loader, part in ((dls.valid, data.valid), (dls[2], data.test), (dls.train.new(shuffle=False), data.train)):
        assert torch.equal(torch.cat([x for x, _ in loader]), torch.from_numpy(part.x))
