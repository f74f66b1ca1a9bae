"""Simulated networks: which of the images each has right, crossed over seeds and images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.stats.crossed import Crossed, Outcomes, crossed
from analysis.verdicts.weighing import weigh

Floats = npt.NDArray[np.float64]
SEED_SD, REST_SD = 0.02, 0.4  # on the scale on which images have sd 1
POOL, OF_A_SPLIT = 1797, 360  # images of digits, and of its test split


def true_difference(level: float, shift: float, image_sd: float) -> float:
    """Mean difference over all seeds and images, in percentage points, of networks as `runs` draws them."""
    variance = 1 + SEED_SD**2 + REST_SD**2
    ticket = special.ndtr((level + shift) / math.sqrt(variance + image_sd**2))
    return float(100 * (ticket - special.ndtr(level / math.sqrt(variance))))


def shift_for(wanted: float, level: float, image_sd: float) -> float:
    """The shift at which the true difference is `wanted`."""
    low, high = -3.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if true_difference(level, middle, image_sd) < wanted else (low, middle)
    return low


def right(rng: np.random.Generator, level: float, of_images: Floats, n: int) -> Floats:
    """Which images n networks have right: where level plus effects of image, seed and both is above 0."""
    noise = rng.normal(0, SEED_SD, (n, 1)) + rng.normal(0, REST_SD, (n, len(of_images)))
    return (level + of_images + noise > 0).astype(np.float64)


def runs(
    rng: np.random.Generator, count: int, n: int, m: int, wanted: float, level: float, image_sd: float
) -> Iterator[Outcomes]:
    """Runs of n seeds on m images, ticket minus dense; a ticket is shifted, by more on some images (sd `image_sd`)."""
    shift = shift_for(wanted, level, image_sd)
    for _ in range(count):
        images = rng.normal(0, 1, m)
        yield right(rng, level, images + shift + rng.normal(0, image_sd, m), n) - right(rng, level, images, n)


def runs_of_own_splits(
    rng: np.random.Generator, count: int, n: int, wanted: float, level: float, image_sd: float
) -> Iterator[Outcomes]:
    """The same, but each seed is tested on images of its own, drawn from those of digits; NaN for the others."""
    shift = shift_for(wanted, level, image_sd)
    for _ in range(count):
        images = rng.normal(0, 1, POOL)
        of_tickets = images + shift + rng.normal(0, image_sd, POOL)
        d = np.full((n, POOL), np.nan)
        for seed in range(n):
            split = rng.permutation(POOL)[:OF_A_SPLIT]
            d[seed, split] = (
                right(rng, level, of_tickets[split], 1)[0] - right(rng, level, images[split], 1)[0]
            )  # fmt: skip
        yield d


def decides(d: Outcomes, bound: float, sign: int = 1) -> float:
    """The one-sided p that decides, of a mean difference above the bound (or below it, for sign -1), as in verdicts."""
    return weigh(100 * np.nanmean(d, axis=1), bound, None, crossed(d)).p(sign)


def seeds_alone_p(found: Crossed, bound: float) -> float:
    """The p of the paired t test over seeds."""
    return float(special.stdtr(found.n - 1, -(found.mean - bound) / math.sqrt(max(found.of_seeds, 1e-12))))
