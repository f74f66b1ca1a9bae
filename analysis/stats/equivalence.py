"""Whether a mean agrees with a published value: intervals for differences and ratios, and the margin. Pure functions.

A published value counts as a constant, unless its spread and number of trials are known: then its variance is added,
with the degrees of freedom of Welch and Satterthwaite. The judgement is that of two one-sided tests (Schuirmann 1987,
J. Pharmacokinet. Biopharm. 15, p. 657): it agrees if the whole interval for (here - published) lies within the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats.paired import Values, standard_deviation, t_value

AGREES, DISAGREES, UNDECIDED = "agrees", "disagrees", "undecided"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its two-sided interval and the degrees of freedom behind it; low and high None: not known."""

    mean: float
    low: float | None = None
    high: float | None = None
    df: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The standard error of a published value, and the degrees of freedom behind it."""

    error: float
    df: float


def mean_of(values: Sequence[float] | Values, confidence: float) -> Estimate:
    """The mean with its t-interval; without an interval for fewer than 2 values. Raises `ValueError` for none."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        raise ValueError("a mean needs at least 1 value")
    mean, n = float(x.mean()), len(x)
    if n < 2:
        return Estimate(mean=mean)
    half = t_value(n - 1, confidence) * standard_deviation(x) / math.sqrt(n)
    return Estimate(mean=mean, low=mean - half, high=mean + half, df=n - 1)


def ratio_of(ours: Sequence[float] | Values, theirs: Sequence[float] | Values, confidence: float) -> Estimate:
    """The mean of `ours` over the mean of `theirs`, pair by pair, with Fieller's interval.

    It holds the ratios r for which a paired t test does not reject mean(ours - r theirs) = 0 (Fieller 1954, J. R.
    Statist. Soc. B 16, p. 175). None at both ends if the mean of `theirs` may be 0, or with fewer than 2 pairs. Raises
    `ValueError` if there are none, or if the mean of `theirs` is 0.
    """
    x, y = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    n = len(x)
    if not n or not float(y.mean()):
        raise ValueError("a ratio needs at least 1 pair and a denominator other than 0")
    ratio = float(x.mean() / y.mean())
    if n < 2:
        return Estimate(mean=ratio)
    square = t_value(n - 1, confidence) ** 2 / n
    covariance = np.cov(x, y)
    a = float(y.mean()) ** 2 - square * float(covariance[1, 1])
    half_b = float(x.mean() * y.mean()) - square * float(covariance[0, 1])
    c = float(x.mean()) ** 2 - square * float(covariance[0, 0])
    if a <= 0:
        return Estimate(mean=ratio, df=n - 1)
    root = math.sqrt(max(half_b**2 - a * c, 0.0))
    return Estimate(mean=ratio, low=(half_b - root) / a, high=(half_b + root) / a, df=n - 1)


def scaled(estimate: Estimate, factor: float, shift: float = 0.0) -> Estimate:
    """factor * estimate + shift; the factor is positive."""
    low, high = (None if end is None else factor * end + shift for end in (estimate.low, estimate.high))
    return Estimate(mean=factor * estimate.mean + shift, low=low, high=high, df=estimate.df)


def minus_published(estimate: Estimate, value: float, spread: Spread | None, confidence: float) -> Estimate:
    """The difference of an estimate to a published value. spread: None for a value that counts as a constant."""
    difference = scaled(estimate, 1.0, -value)
    if spread is None or difference.low is None or difference.high is None:
        return difference
    ours = (difference.high - difference.low) / 2 / t_value(estimate.df, confidence)
    parts = [(ours, estimate.df), (spread.error, spread.df)]
    variance = sum(error**2 for error, _ in parts)
    against = sum(error**4 / df for error, df in parts)
    df = variance**2 / against if against else math.inf
    half = t_value(df, confidence) * math.sqrt(variance)
    return Estimate(mean=difference.mean, low=difference.mean - half, high=difference.mean + half, df=df)


def judge(difference: Estimate, least: float, most: float) -> str:
    """AGREES if the interval of the difference lies between `least` and `most`, DISAGREES if it lies outside.

    Else, and without an interval, UNDECIDED. A difference that is exactly `least` or `most` is outside. For a published
    bound one of the two is infinite and the other is 0: what is exactly at the bound is not above it.
    """
    if difference.low is None or difference.high is None:
        return UNDECIDED
    if least < difference.low and difference.high < most:
        return AGREES
    return DISAGREES if difference.high <= least or difference.low >= most else UNDECIDED
