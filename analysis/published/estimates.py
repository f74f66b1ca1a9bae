"""What a run measures for a published quantity, with its interval over seeds. Pure functions of rows.

The intervals are over seeds alone where paper and run are measured on the same test images. Where the paper's are
others, the images are a sample too: then a difference in accuracy has the interval of the verdicts, over seeds and
images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.published.arms import ROUND, Level, rounds
from analysis.published.points import (
    ACCURACY,
    AT_EARLY_STOP,
    CHANGE,
    OF_ITERATIONS,
    OTHER_IMAGES,
    Point,
)
from analysis.stats.equivalence import Estimate, mean_of, ratio_of, scaled
from analysis.tables.clocks import FROM_INIT
from analysis.verdicts.groups import Pairs, pair_up

DENSE_PCT = 100.0  # weights left in the dense network, which is not below itself
COLUMN = {AT_EARLY_STOP: "early_stop_test_accuracy", "end": "test_accuracy", None: FROM_INIT}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the run has for a quantity: the estimate in the unit of the point, and the number of pairs behind it.

    lacks: why nothing is decided, however the numbers are; None if nothing stands in the way. is_bound: some early
    stops are only lower bounds, so the estimate says how it looks, and no more.
    """

    estimate: Estimate | None
    n: int
    lacks: str | None = None
    is_bound: bool = False


@dataclass(frozen=True, kw_only=True)
class Fall:
    """From which level on an arm is below the other: weights left (percent) by the means, as far as the intervals allow
    it, and the most and the least that these allow; None: at no level of the run, but perhaps beyond."""

    by_means: float | None
    most: float
    least: float | None
    n: int
    lacks: str | None = None


def pairs_of(point: Point, level: Level) -> Pairs:
    """The pairs of a point at a level; of an accuracy alone each trial with itself."""
    other = point.against or point.arm
    return pair_up(level.side(point.arm), level.side(other), COLUMN[point.at], other=other, ticket=point.arm)


def estimate_at(point: Point, level: Level, confidence: float) -> Found:
    """The quantity of a point at one level."""
    pairs = pairs_of(point, level)
    lacks = _lacks(pairs, of_iterations=point.quantity in OF_ITERATIONS)
    if not pairs.n or not all(map(math.isfinite, (*pairs.tickets, *pairs.others))):
        return Found(estimate=None, n=pairs.n, lacks=lacks or "no pairs")
    if point.quantity == ACCURACY:
        found = scaled(mean_of(pairs.tickets, confidence), 100.0)
    elif point.quantity in OF_ITERATIONS:
        if not sum(pairs.others):
            return Found(estimate=None, n=pairs.n, lacks=f"every early stop of {point.against} is at iteration 0")
        found = ratio_of(pairs.tickets, pairs.others, confidence)
        found = scaled(found, 100.0, -100.0) if point.quantity == CHANGE else found
    else:
        found = _difference(pairs, confidence, over_images=point.images == OTHER_IMAGES)
    is_bound = point.quantity in OF_ITERATIONS and pairs.n_censored > 0
    return Found(estimate=found, n=pairs.n, lacks=lacks, is_bound=is_bound)


def _difference(pairs: Pairs, confidence: float, over_images: bool) -> Estimate:
    """The mean difference in accuracy, pp, over seeds; or over seeds and images, if it is known who has which right."""
    if not over_images or pairs.crossed is None:
        return scaled(mean_of(pairs.differences, confidence), 100.0)
    interval = pairs.crossed.interval(confidence)
    return Estimate(mean=interval.mean, low=interval.low, high=interval.high, df=pairs.crossed.df)


def fall_of(point: Point, levels: Sequence[Level], alpha: float, margin_pp: float) -> Fall:
    """From which of these levels on, most weights left first, an arm is below the other.

    A level is shown to be below if its interval is below 0. It is shown not to be if it is not shown below and its
    interval, at alpha over the number of levels, lies above -`margin_pp`, the margin of the run: no figure shows less.
    The fall is a round of 20 % after the last level that is shown not to be below, or later; and at the latest where
    that level and all sparser ones are shown below. That is one step-down test from the sparsest level up, so it needs
    no correction.
    """
    at_level = [(level.left_pct, pairs_of(point, level)) for level in levels]
    known = [(left, pairs) for left, pairs in at_level if pairs.n]
    if not known:
        return Fall(by_means=None, most=DENSE_PCT, least=None, n=0, lacks="no pairs")
    at_once = 1 - 2 * alpha / len(known)
    by_means, latest, earliest = len(known), len(known), 0
    for index, (_, pairs) in reversed(list(enumerate(known))):
        differences = 100 * pairs.differences
        usual, strict = mean_of(differences, 1 - 2 * alpha), mean_of(differences, at_once)
        if by_means == index + 1 and usual.mean < 0:
            by_means = index
        is_below = usual.high is not None and usual.high < 0
        if latest == index + 1 and is_below:
            latest = index
        if earliest <= index and not is_below and strict.low is not None and strict.low > -margin_pp:
            earliest = index + 1
    by_means = min(max(by_means, earliest), latest)
    lefts = [*(left for left, _ in known), None]
    reasons = [_lacks(pairs, of_iterations=False) for _, pairs in at_level]
    before = lefts[earliest - 1] if earliest else DENSE_PCT
    most = max(lefts[earliest] or 0.0, ROUND * (before or 0.0))
    return Fall(
        by_means=lefts[by_means], most=most, least=lefts[latest], n=min(pairs.n for _, pairs in known),
        lacks=next((reason for reason in reasons if reason), None),
    )  # fmt: skip


def in_rounds(fall: Fall, published_pct: float) -> Estimate:
    """A fall minus the published one, in rounds of 20 %: infinitely many where it may be beyond the run."""
    ends = [
        -math.inf if left is None else rounds(left, published_pct) for left in (fall.by_means, fall.least, fall.most)
    ]
    return Estimate(mean=ends[0], low=ends[1], high=ends[2])


def best_on_validation(point: Point, levels: Sequence[Level]) -> Level:
    """The level at which the arm has the highest mean validation accuracy: so the test accuracy there is unbiased."""

    def accuracy(level: Level) -> float:
        values = [row["valid_accuracy"] for row in level.side(point.arm) if row["valid_accuracy"] is not None]
        return sum(values) / len(values) if values else -math.inf

    return max(levels, key=accuracy)


def _lacks(pairs: Pairs, of_iterations: bool) -> str | None:
    if pairs.unfinished:
        return f"the run is not complete: {pairs.why_unfinished}"
    if of_iterations and pairs.n_censored:
        return f"{pairs.n_censored} of {pairs.n} early stops are only lower bounds: the loss was still falling"
    return None
