"""The crossed seeds x images test: its estimate and its interval."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from analysis.stats.crossed import Outcomes, crossed
from analysis.stats.paired import t_interval

ALPHA = 0.025


def some(n: int = 6, m: int = 40, seed: int = 0) -> Outcomes:
    return np.random.default_rng(seed).choice([-1, 0, 1], size=(n, m), p=[0.12, 0.82, 0.06]).astype(np.float64)


def test_mean_squares_are_those_of_a_two_way_table() -> None:
    d = some()
    n, m = d.shape
    mean, by_seed, by_image = d.mean(), d.mean(axis=1), d.mean(axis=0)
    ms_seeds = m * sum((value - mean) ** 2 for value in by_seed) / (n - 1)
    ms_images = n * sum((value - mean) ** 2 for value in by_image) / (m - 1)
    rest = [d[s, i] - by_seed[s] - by_image[i] + mean for s, i in itertools.product(range(n), range(m))]
    ms_rest = sum(value**2 for value in rest) / ((n - 1) * (m - 1))
    found = crossed(d)
    of_images = max(ms_images - ms_rest, 0)
    assert found.mean == pytest.approx(100 * mean)
    assert found.of_seeds == pytest.approx(1e4 * ms_seeds / (n * m))
    assert found.of_images == pytest.approx(1e4 * of_images / (n * m))
    assert found.df == pytest.approx(min((ms_seeds + of_images) ** 2 / (ms_seeds**2 / (n - 1)), m - 1))


def test_without_differences_between_images_it_is_the_paired_t_test() -> None:
    """Each seed has its own number of images, none twice: images differ less than chance would make them."""
    d = np.zeros((4, 40), dtype=np.float64)
    for seed, (start, end) in enumerate([(0, 2), (2, 6), (6, 7), (7, 12)]):
        d[seed, start:end] = -1
    found, seeds_alone = crossed(d), t_interval(100 * d.mean(axis=1))
    assert found.of_images == 0 and found.df == 3 and seeds_alone is not None
    assert found.mean == pytest.approx(seeds_alone.mean) and found.interval().high == pytest.approx(seeds_alone.high)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_holds_the_bounds_that_are_not_rejected(seed: int, confidence: float) -> None:
    d = some(seed=seed) * (1 if seed % 2 else -1)
    found = crossed(d.astype(np.float64))
    interval = found.interval(confidence)
    assert found.superiority(interval.low).p == pytest.approx((1 - confidence) / 2)
    assert found.inferiority(interval.high).p == pytest.approx((1 - confidence) / 2)


def test_a_bound_far_from_a_mean_of_zero_is_not_refuted_by_the_lack_of_images_that_differ() -> None:
    """Networks that agree on all of 300 images: 1 pp is three images, and to see none of them is no surprise."""
    d = np.zeros((20, 300), dtype=np.float64)
    found = crossed(d)
    assert found.variance_at(0) == 0
    assert found.superiority(-1).p > ALPHA and found.superiority(-3).p < ALPHA
    assert found.interval().low < -1 < 1 < found.interval().high
    with pytest.raises(ValueError, match="t is undefined"):
        found.superiority(0)


def test_one_split_written_as_splits_of_their_own_is_estimated_alike() -> None:
    """Images that no seed was tested on change nothing but the size of what they are drawn from."""
    d = some()
    n, m = d.shape
    of_one, own = crossed(d), crossed(np.hstack([d, np.full((n, m), np.nan)]))
    assert own.mean == pytest.approx(of_one.mean) and own.of_seeds == pytest.approx(of_one.of_seeds)
    assert own.m == m and 2 * own.of_images == pytest.approx(of_one.of_images)


def test_images_that_two_seeds_share_say_how_much_images_differ() -> None:
    """Every second image is lost by each seed that sees it: seeds hang together by it, however many there are."""
    d = np.full((3, 60), np.nan)
    for seed in range(3):
        d[seed, seed * 20 : seed * 20 + 20] = -1.0 * (np.arange(20) % 2)
    assert crossed(d).of_images == 0  # no two seeds share an image
    d = np.full((3, 30), np.nan)
    for seed in range(3):
        d[seed, seed * 5 : seed * 5 + 20] = -1.0 * ((np.arange(20) + seed * 5) % 2)
    assert crossed(d).of_images == pytest.approx(1e4 * 0.25 / 30, rel=0.06)


@pytest.mark.parametrize(("n", "m"), [(1, 40), (6, 1)])
def test_too_little_to_estimate_a_variance_is_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=f"found {n} seeds and {m} images"):
        crossed(np.zeros((n, m), dtype=np.float64))
