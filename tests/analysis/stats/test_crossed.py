"""The crossed seeds x images test: its estimate, its interval, and alpha, which seeds alone do not hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special

from analysis.stats.crossed import CROSSED, Crossed, Outcomes, crossed
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


# -- simulations -----------------------------------------------------------------------------------------------------

SEED_SD, REST_SD = 0.02, 0.4  # on the scale on which images have sd 1


def true_difference(level: float, shift: float, image_sd: float) -> float:
    """Mean difference over all seeds and images, in percentage points, of networks as `simulated` draws them."""
    variance = 1 + SEED_SD**2 + REST_SD**2
    ticket = special.ndtr((level + shift) / math.sqrt(variance + image_sd**2))
    return float(100 * (ticket - special.ndtr(level / math.sqrt(variance))))


def shift_for(wanted: float, level: float, image_sd: float) -> float:
    low, high = -3.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if true_difference(level, middle, image_sd) < wanted else (low, middle)
    return low


def simulated(
    rng: np.random.Generator, sweeps: int, n: int, m: int, wanted: float, level: float, image_sd: float
) -> list[Crossed]:
    """A network has an image right if its level plus effects of image, seed and both is above 0; a ticket is shifted,
    by more on some images than on others (sd `image_sd`)."""
    shift, found = shift_for(wanted, level, image_sd), []
    for _ in range(sweeps):
        images = rng.normal(0, 1, m)

        def right(of_images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            noise = rng.normal(0, SEED_SD, (n, 1)) + rng.normal(0, REST_SD, (n, m))
            return (level + of_images + noise > 0).astype(np.float64)

        found.append(crossed(right(images + shift + rng.normal(0, image_sd, m)) - right(images)))
    return found


def seeds_alone_p(found: Crossed, bound: float) -> float:
    return float(special.stdtr(found.n - 1, -(found.mean - bound) / math.sqrt(max(found.of_seeds, 1e-12))))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 2.0, 3.0])  # 77, 97 and 99.7 % right
@pytest.mark.parametrize("image_sd", [0.0, 0.5])
@pytest.mark.parametrize(("n", "m"), [(5, 360), (8, 360), (20, 360), (8, 1000), (20, 1000)])
def test_crossed_over_seeds_and_images_alpha_holds(n: int, m: int, image_sd: float, level: float) -> None:
    sweeps = 2000
    rng = np.random.default_rng(n * m)
    most = ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / sweeps)
    lower = simulated(rng, sweeps, n, m, -1.0, level, image_sd)
    assert sum(found.superiority(-1).p <= ALPHA for found in lower) / sweeps <= most
    assert sum(found.inferiority(-1).p <= ALPHA for found in lower) / sweeps <= most
    equal = [found for found in simulated(rng, sweeps, n, m, 0.0, level, image_sd) if found.variance_at(0) > 0]
    assert sum(found.superiority().p <= ALPHA for found in equal) / sweeps <= most
    assert sum(found.inferiority().p <= ALPHA for found in equal) / sweeps <= most


def test_seeds_alone_call_a_lower_ticket_matching_far_too_often_and_crossed_they_do_not() -> None:
    """Digits' size: 360 images, 8 seeds, 97 % right, a ticket that is 1 pp lower on other images of the same kind."""
    found = simulated(np.random.default_rng(0), 400, 8, 360, -1.0, 2.0, 0.5)
    alone = sum(seeds_alone_p(each, -1) <= ALPHA for each in found) / len(found)
    assert alone > 3 * ALPHA
    assert sum(each.superiority(-1).p <= ALPHA for each in found) / len(found) <= 0.05
    assert all(each.superiority(-1).test == CROSSED for each in found)


def test_images_enough_and_seeds_enough_show_a_match() -> None:
    found = simulated(np.random.default_rng(0), 100, 8, 2000, 0.0, 2.0, 0.5)
    assert sum(each.superiority(-1).p <= ALPHA for each in found) >= 80


POOL, OF_A_SPLIT = 1797, 360  # of digits


def with_own_splits(
    rng: np.random.Generator, sweeps: int, n: int, wanted: float, level: float, image_sd: float
) -> list[Crossed]:
    """As `simulated`, but each seed is tested on images of its own, drawn from those of digits."""
    shift, found = shift_for(wanted, level, image_sd), []
    for _ in range(sweeps):
        images = rng.normal(0, 1, POOL)
        of_tickets = images + shift + rng.normal(0, image_sd, POOL)
        d = np.full((n, POOL), np.nan)
        for seed in range(n):
            split = rng.permutation(POOL)[:OF_A_SPLIT]
            noise = rng.normal(0, SEED_SD, (2, 1)) + rng.normal(0, REST_SD, (2, OF_A_SPLIT))
            d[seed, split] = 1.0 * (level + of_tickets[split] + noise[0] > 0) - (level + images[split] + noise[1] > 0)
        found.append(crossed(d))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 2.0, 3.0])
@pytest.mark.parametrize("image_sd", [0.0, 0.5])
@pytest.mark.parametrize("n", [5, 8, 20])
def test_alpha_holds_if_each_seed_has_a_split_of_its_own(n: int, image_sd: float, level: float) -> None:
    sweeps, rng = 2000, np.random.default_rng(n)
    most = ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / sweeps)
    for wanted in (-1.0, 0.0):
        drawn = with_own_splits(rng, sweeps, n, wanted, level, image_sd)
        found = [each for each in drawn if each.variance_at(wanted) > 0]
        assert sum(each.superiority(wanted).p <= ALPHA for each in found) / sweeps <= most
        assert sum(each.inferiority(wanted).p <= ALPHA for each in found) / sweeps <= most


def test_seeds_alone_are_not_sample_enough_where_their_splits_overlap() -> None:
    """20 seeds whose test splits have a fifth of their images in common, and a ticket that is 1 pp lower."""
    found = with_own_splits(np.random.default_rng(0), 400, 20, -1.0, 3.0, 0.5)
    alone = sum(seeds_alone_p(each, -1) <= ALPHA for each in found) / len(found)
    assert alone > 2 * ALPHA
    assert sum(each.superiority(-1).p <= ALPHA for each in found) / len(found) <= 0.05
