"""Data sets whose images are normalised when they are first used."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from lth_trainable.data import when_used
from lth_trainable.data.splits import Dataset, Pixels, Split, normalised, split
from lth_trainable.data.when_used import Once, split_when_used

N, SIZES = 200, (150, 20, 30)


@pytest.fixture
def images() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    stream = np.random.default_rng(0)
    return stream.integers(0, 256, (N, 3, 5, 5), dtype=np.uint8), stream.integers(0, 2, N)


def parts(data: Dataset) -> list[Split]:
    return [data.train, data.valid, data.test]


@pytest.mark.parametrize("own_test", [False, True])
def test_it_is_the_data_set_that_is_normalised_at_once(
    images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]], own_test: bool
) -> None:
    own = np.arange(N) % 7 == 0 if own_test else None
    sizes = (N - 20 - int(own.sum()), 20, int(own.sum())) if own is not None else SIZES
    at_once, later = (make(*images, ("a", "b"), sizes=sizes, seed=3, test=own) for make in (split, split_when_used))
    assert later.digest == at_once.digest and later.shape == at_once.shape == (3, 5, 5)
    for one, two in zip(parts(later), parts(at_once), strict=True):
        assert len(one) == len(two) and one.shape == two.shape
        assert one.x.tobytes() == two.x.tobytes() and one.x.dtype == np.float32
        assert one.y.tobytes() == two.y.tobytes()
    assert at_once.pixels is not None and later.pixels is not None
    assert later.pixels.mean.tobytes() == at_once.pixels.mean.tobytes()
    assert later.pixels.std.tobytes() == at_once.pixels.std.tobytes()


def test_number_shape_and_digest_need_no_normalised_image(
    images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(x: npt.NDArray[np.uint8], cut: npt.NDArray[np.int64], pixels: Pixels) -> npt.NDArray[np.float32]:
        made.append(len(cut))
        return normalised(x, cut, pixels)

    monkeypatch.setattr(when_used, "normalised", counted)
    data = split_when_used(*images, ("a", "b"), sizes=SIZES, seed=0)
    assert [len(part) for part in parts(data)] == list(SIZES) and data.shape == (3, 5, 5)
    assert data.digest and data.majority_class_accuracy > 0 and made == []
    data.normalise()
    assert sorted(made) == sorted(SIZES)
    assert data.train.x is data.train.x and len(made) == len(SIZES)


def test_a_pickle_has_the_images(images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]) -> None:
    data = split_when_used(*images, ("a", "b"), sizes=SIZES, seed=0)
    again: Dataset = pickle.loads(pickle.dumps(data))
    assert [part.x.tobytes() for part in parts(again)] == [part.x.tobytes() for part in parts(data)]
    assert type(again.train) is Split and type(again.pixels) is Pixels
    assert data.pixels is not None and again.pixels is not None
    assert again.pixels.mean.tobytes() == data.pixels.mean.tobytes()


def test_bytes_have_the_values_of_the_formula(
    images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]],
) -> None:
    x, _ = images
    x[0, 0, 0, 0], x[0, 2, 0, 1] = 0, 255
    pixels = Pixels(
        scale=255, mean=np.array([[[[0.1]], [[0.2]], [[1 / 3]]]]), std=np.array([[[[3.0]], [[0.1]], [[1]]]])
    )
    cut = np.random.default_rng(1).permutation(N)[: N - 1]
    assert normalised(x, cut, pixels).tobytes() == pixels.normalised(x[cut]).tobytes()


def test_threads_that_ask_at_once_get_one_value() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    once = Once(make)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: once(), range(64)))
    assert len(made) == 1 and all(value is made[0] for value in found)
