"""Paired differences in accuracy when seeds and images are both samples: the crossed seeds x images test.

All networks of a run are tested on the same images. A paired t test over seeds alone therefore asks: would other seeds
give this difference *on this test set*? To speak of other images of the same kind, images have to be random as well.

The design is that of studies with several readers and several cases (Dorfman, Berbaum & Metz 1992, Investigative
Radiology 27, p. 723). The difference of seed s on image i is -1, 0 or 1, and

    d_si = mean + seed_s + image_i + rest_si.

(A diverged trial has each image right in part: 1 / number of classes.)
Mean squares of seeds, images and rest estimate the variance of the mean over n seeds and m images (method of moments),

    V = (MS_seeds + max(MS_images - MS_rest, 0)) / (n m),

with the degrees of freedom of Hillis 2007 (Statistics in Medicine 26, p. 596):

    df = (MS_seeds + max(MS_images - MS_rest, 0))^2 / (MS_seeds^2 / (n - 1)).

V is never less than the variance over seeds alone, MS_seeds / (n m), which has n - 1 degrees of freedom.

A few images decide, since most networks have most images right. So V is small by chance just where the mean is near 0
by chance. A bound further from 0 than the mean is therefore tested with the variance that the data would have if the
mean *were* at the bound, as in the score test for paired proportions (Tango 1998, Statistics in Medicine 17, p. 891):
the missing difference would come from further images. Each would add its part of the mean to the squares: a whole image
if all seeds differ on it. The images that differ in the data have the weighted mean h = sum(d_i^2) / sum(|d_i|) of
their differences d_i; taken is the geometric mean of h and 1. `test_crossed.py` shows that alpha holds.

If each seed has a split of its own, it is tested on m of N images, and two seeds have a part m / N of their images in
common. Then the spread over seeds holds most of the images' part, but not all: with the variance v of the images'
effects, seeds have the covariance v / N. So

    V = variance over seeds / n + max(v, 0) / N,

where v is the mean product of the deviations of two seeds on an image that both were tested on (each deviation from the
mean of its seed). For m = N this is the V above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.stats import special
from analysis.stats.paired import Interval, PValue

CROSSED = "seeds x images"
# (n seeds, images), ticket minus baseline; each is 1 where it has the image right. NaN: not in the split of the seed
Outcomes = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """The mean difference over n seeds and m images, in percentage points (pp), and what its variance consists of.

    m: images that at least one seed was tested on.

    of_seeds: part of the variance that more seeds make smaller, in pp^2; of_images: that only more images do.
    growth: what each pp between the mean and a bound further from 0 adds to the variance at that bound, in pp.
    """

    n: int
    m: int
    mean: float
    of_seeds: float
    of_images: float
    df: float
    growth: float

    def variance_at(self, bound: float) -> float:
        """Variance of the mean if the true mean were `bound`, in pp^2; 0 if all differences are equal."""
        return self.of_seeds + self.of_images + self.growth * max(0.0, abs(bound) - abs(self.mean))

    def interval(self, confidence: float = 0.95) -> Interval:
        """Two-sided interval for the mean difference on other seeds and other images: the bounds that no test rejects
        at half of 1 - `confidence`."""
        t = float(special.stdtrit(self.df, (1 + confidence) / 2))
        below, above = abs(self.mean) + self.mean, abs(self.mean) - self.mean
        return Interval(mean=self.mean, low=self.mean - self._reach(t, below), high=self.mean + self._reach(t, above))

    def superiority(self, bound: float = 0.0) -> PValue:
        """H0: mean difference <= `bound`, against H1: above it. One-sided. Raises `ValueError` if t is undefined."""
        return self._p(bound, 1)

    def inferiority(self, bound: float = 0.0) -> PValue:
        """H0: mean difference >= `bound`, against H1: below it. One-sided. Raises `ValueError` if t is undefined."""
        return self._p(bound, -1)

    def _p(self, bound: float, sign: int) -> PValue:
        variance = self.variance_at(bound)
        if variance == 0:
            raise ValueError("all differences are equal, so t is undefined")
        t = sign * (self.mean - bound) / math.sqrt(variance)
        return PValue(p=float(special.stdtr(self.df, -t)), test=CROSSED)

    def _reach(self, t: float, free: float) -> float:
        """The largest x with x = t sqrt(V + growth max(0, x - free)): to the last bound that is not rejected.

        free: how far from the mean, on this side, bounds are nearer to 0 than the mean.
        """
        variance = self.of_seeds + self.of_images
        half = t * t * self.growth / 2
        square = half * half + t * t * (variance - self.growth * free)
        beyond = half + math.sqrt(max(square, 0.0))
        return beyond if square >= 0 and beyond > free else t * math.sqrt(variance)


def crossed(outcomes: Outcomes) -> Crossed:
    """The estimate from differences of shape (n seeds, images), each from -1 to 1; NaN: not in the split of the seed.

    The splits of all seeds have the same size.

    Raises `ValueError` for fewer than 2 seeds or 2 images.
    """
    n, m = outcomes.shape
    if n < 2 or m < 2:
        raise ValueError(f"found {n} seeds and {m} images, expected at least 2 of each")
    seen = ~np.isnan(outcomes)
    if not seen.all():
        return _of_own_splits(np.where(seen, outcomes, 0.0), seen)
    by_seed, by_image = outcomes.mean(axis=1), outcomes.mean(axis=0)
    mean = float(by_seed.mean())
    seeds = m * float(np.square(by_seed - mean).sum())
    images = n * float(np.square(by_image - mean).sum())
    total = float(np.square(outcomes).sum()) - n * m * mean**2
    rest = max(total - seeds - images, 0.0) / ((n - 1) * (m - 1))
    of_seeds, of_images = seeds / (n - 1), max(images / (m - 1) - rest, 0.0)
    df = (n - 1) * ((of_seeds + of_images) / of_seeds) ** 2 if of_seeds > 0 else math.inf
    return Crossed(
        n=n, m=m, mean=100 * mean, of_seeds=1e4 * of_seeds / (n * m), of_images=1e4 * of_images / (n * m),
        df=max(n - 1, min(df, m - 1)), growth=100 * math.sqrt(_size(by_image)) / m,
    )  # fmt: skip


def _of_own_splits(outcomes: Outcomes, seen: npt.NDArray[np.bool_]) -> Crossed:
    """The same if each seed has a split of its own. outcomes: 0 where a seed was not tested on the image."""
    n, pool = outcomes.shape
    tested, counts = int(seen[0].sum()), seen.sum(axis=0)
    by_seed = outcomes.sum(axis=1) / tested
    mean = float(by_seed.mean())
    apart = np.where(seen, outcomes - by_seed[:, None], 0.0)
    products = float((np.square(apart.sum(axis=0)) - np.square(apart).sum(axis=0)).sum())
    shared = int((counts * (counts - 1)).sum())
    of_image = max(products / shared * tested / (tested - 1), 0.0) if shared else 0.0
    of_seeds, of_images = float(by_seed.var(ddof=1)) / n, of_image / pool
    df = (n - 1) * ((of_seeds + of_images) / of_seeds) ** 2 if of_seeds > 0 else math.inf
    m = int((counts > 0).sum())
    of_bound = (1 - tested / pool) / (n * tested) + 1 / pool  # of the variance, by that of the images
    by_image = outcomes.sum(axis=0)[counts > 0] / counts[counts > 0]
    return Crossed(
        n=n, m=m, mean=100 * mean, of_seeds=1e4 * of_seeds, of_images=1e4 * of_images,
        df=max(n - 1, min(df, m - 1)), growth=100 * math.sqrt(_size(by_image)) * of_bound,
    )  # fmt: skip


def _size(by_image: npt.NDArray[np.float64]) -> float:
    """The weighted mean of the differences of the images that differ, h."""
    size = float(np.abs(by_image).sum())
    return float(np.square(by_image).sum()) / size if size else 1.0
