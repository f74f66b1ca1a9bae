"""What the pairs of one test say: p values on both sides of the bound, and intervals. Every number of a verdict that
depends on the kind of test comes from `weigh`, so that another test takes its place here. Pure.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.stats import paired as stats
from analysis.stats import special
from analysis.stats.crossed import CROSSED, Crossed
from analysis.stats.paired import Interval, Values

Level = Callable[[float], float | None]  # one-sided level -> confidence bound of the mean; None: there is none


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """test: the name of the deciding one. p_above, p_below: one-sided p of a mean above and below the bound.

    interval: two-sided, 95 %; None if values are censored or there are fewer than 2. lower, upper: confidence bounds of
    the mean at a one-sided level: the lower one is above the tested bound just where p_above is below the level.
    """

    test: str
    p_above: float
    p_below: float
    interval: Interval | None
    lower: Level
    upper: Level

    def p(self, sign: int) -> float:
        """p of a mean above the bound for sign 1, below it for sign -1."""
        return self.p_above if sign > 0 else self.p_below


def weigh(
    differences: Values, bound: float, certain: Callable[[int], int] | None, crossed: Crossed | None = None
) -> Weighed:
    """Weigh at least 2 paired differences against a bound: by the paired t test; if all are equal by the sign flip.

    certain: if values are censored, the number of pairs that are certainly above (1) or below (-1) the bound. Then the
    exact sign test decides, and there is no interval. crossed: of the same differences, image by image; then both the
    test over seeds and that over seeds and images have to show it.
    """
    if certain is not None:
        p = {sign: stats.sign_test_p(certain(sign), len(differences)) for sign in (1, -1)}
        return Weighed(test=stats.SIGN_TEST, p_above=p[1], p_below=p[-1], interval=None, lower=_none, upper=_none)
    above, below = stats.superiority(differences, bound), stats.superiority(-differences, -bound)
    ends = (_none, _none) if above.test != stats.PAIRED_T else _t_bounds(differences)
    alone = Weighed(
        test=above.test, p_above=above.p, p_below=below.p, interval=stats.t_interval(differences), lower=ends[0],
        upper=ends[1],
    )  # fmt: skip
    return alone if crossed is None or alone.interval is None else _with_images(alone, alone.interval, crossed, bound)


def _with_images(alone: Weighed, interval: Interval, crossed: Crossed, bound: float) -> Weighed:
    """Over seeds and images: of both tests the larger p, and of both intervals the wider ends."""
    both = crossed.interval()
    wider = replace(interval, low=min(interval.low, both.low), high=max(interval.high, both.high))
    if not crossed.variance_at(bound):
        return replace(alone, interval=wider)

    def lower(level: float) -> float | None:
        end = alone.lower(level)
        return None if end is None else min(end, crossed.interval(1 - 2 * level).low)

    def upper(level: float) -> float | None:
        end = alone.upper(level)
        return None if end is None else max(end, crossed.interval(1 - 2 * level).high)

    return Weighed(
        test=CROSSED, p_above=max(alone.p_above, crossed.superiority(bound).p),
        p_below=max(alone.p_below, crossed.inferiority(bound).p), interval=wider, lower=lower, upper=upper,
    )  # fmt: skip


def at_looks(weighed: Sequence[Weighed], looks: Sequence[int], side: str, level: float) -> float | None:
    """The confidence bound at interim looks: the best of the repeated bounds at the looks taken so far.

    Each has the nominal level of its look in the plan of `level` (Jennison & Turnbull 2000, Group Sequential Methods,
    section 9.2). side: "lower" or "upper". None if no look taken may reject.
    """
    nominal = _nominal(tuple(looks), level)
    found = [getattr(one, side)(at) for one, at in zip(weighed, nominal, strict=False) if at > 0]
    known = [end for end in found if end is not None]
    return (max if side == "lower" else min)(known) if known else None


@functools.lru_cache(maxsize=256)
def _nominal(looks: tuple[int, ...], level: float) -> tuple[float, ...]:
    from analysis.stats.sequential import plan  # its integrals take a second to import: for a run with looks alone

    return plan(looks, level).levels


def _t_bounds(differences: npt.ArrayLike) -> tuple[Level, Level]:
    d = np.asarray(differences, dtype=np.float64)
    mean, error = float(d.mean()), stats.standard_deviation(d) / math.sqrt(len(d))

    def half(level: float) -> float:
        return float(special.stdtrit(len(d) - 1, 1 - level)) * error

    return lambda level: mean - half(level), lambda level: mean + half(level)


def _none(level: float) -> None:
    return None
