"""Power of the one-sided paired t test, and how many seeds it needs; for planning, from the spread in a pilot run.

`delta` is how far the true mean difference is beyond the tested bound: the true difference itself for
superiority ("beats", bound 0), the true difference plus the margin for non-inferiority ("matches", bound -margin).
`sd` is the standard deviation of the paired differences, in the unit of `delta`; `alpha` is one-sided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.stats import special
from analysis.stats.paired import Values, standard_deviation
from lth_trainable.errors import bad_value

CONFIDENCE = 0.8  # of the range of seeds
AT_ONCE = 4  # steps of bisection
FAR = 30.0  # a t beyond which the series of the noncentral t may fail


def power(n: int, delta: float, sd: float, alpha: float) -> float:
    """Probability that a one-sided paired t test on `n` pairs rejects at `alpha`.

    1 - F(t(n-1, 1-alpha); n - 1, delta sqrt(n) / sd), with F the distribution function of the noncentral t, its df and
    its noncentrality (Johnson, Kotz & Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 31). With `sd`
    0 all differences are equal and the sign-flip test decides (`stats.superiority`): it rejects where delta > 0 and
    2^-n <= alpha. Good to 1e-7 for alpha from 1e-5 on, as scipy's noncentral t is. Raises `UserError` for fewer than 2
    pairs, a negative `sd`, or an `alpha` that is no level.
    """
    if n < 2:
        raise bad_value("n", n, "at least 2 pairs")
    _check(delta, sd, alpha)
    return float(_power(np.array([n]), delta, np.array([sd]), alpha)[0])


def seeds_needed(
    delta: float,
    sd: float,
    alpha: float,
    power: float = 0.8,
    at_most: int = 10_000,
    at_least: int = 2,
    floor: float = 0.0,
) -> int | None:
    """The fewest seeds (pairs), from `at_least` to `at_most`, that give the test the `power`; None if none does.

    Power rises with n for delta > 0, so the number is found by bisection; for delta <= 0 no number is enough. About
    6.2 (sd / delta)^2 at 5 % and 80 %, and one or two more for few seeds. floor: variance of the mean difference that
    more seeds do not make smaller, as of images that are a sample too (`analysis.stats.crossed`), in the unit of delta
    squared; if it is large, no number of seeds is enough. Raises `UserError` as the function `power` does, and for a
    power that is not between alpha and 1.
    """
    _check(delta, sd, alpha)
    if not alpha < power < 1:
        raise bad_value("power", power, f"a probability, more than alpha ({alpha:g}) and less than 1")
    if not 2 <= at_least <= at_most:
        raise bad_value("at_least", at_least, f"2 to at_most ({at_most})")

    if delta <= 0:
        return None
    known: dict[int, bool] = {}

    def reached(n: int, below: int, above: int) -> bool:
        if n not in known:  # with all that bisection may ask for next: many at once take hardly longer than one
            ns = sorted({n, *_middles(below, above, AT_ONCE)})
            found = _power(np.array(ns), delta, np.sqrt(sd * sd + np.array(ns) * floor), alpha) >= power
            known.update(zip(ns, found.tolist(), strict=True))
        return known[n]

    short, enough = at_least - 1, at_most
    if not reached(at_most, short, enough):
        return None
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if reached(middle, short, enough) else (middle, enough)
    return enough


def _middles(short: int, enough: int, depth: int) -> list[int]:
    """The numbers that so many steps of bisection may come to."""
    if not depth or enough - short < 2:
        return []
    middle = (short + enough) // 2
    return [middle, *_middles(short, middle, depth - 1), *_middles(middle, enough, depth - 1)]


@dataclass(frozen=True, kw_only=True)
class SeedsRange:
    """How many seeds a test needs, as far as a few pairs can tell. None: more than were asked for.

    low, high: ends of the 80 % interval that these pairs leave. point: if their mean and sd were the true ones.
    """

    low: int | None
    point: int | None
    high: int | None


def seeds_range(
    differences: npt.ArrayLike,
    bound: float,
    alpha: float,
    at_most: int = 10_000,
    at_least: int = 2,
    floor: float = 0.0,
) -> SeedsRange:
    """The range of `seeds_needed` for a true mean above `bound`, from the uncertainty of the mean and of the sd.

    The number depends on delta / sd alone, whose exact interval follows from the noncentral t (`effect_interval`). Its
    uncertainty is that of the mean and of the sd (chi-square) together. A range covers the true number in 80 % of runs.
    If the true mean may lie on the bound or beyond it, `high` is None. Raises `UserError` as `seeds_needed` does.
    """
    d = np.asarray(differences, dtype=np.float64)
    delta, sd = float(d.mean()) - bound, standard_deviation(d)
    limits: dict[str, Any] = {"alpha": alpha, "at_most": at_most, "at_least": at_least}
    point = seeds_needed(delta, sd, floor=floor, **limits)
    if sd == 0:
        return SeedsRange(low=point, point=point, high=point)
    low, high = effect_interval(delta / sd, len(d))
    few, many = (seeds_needed(effect, 1.0, floor=floor / sd**2, **limits) for effect in (high, low))
    return SeedsRange(low=few, point=point, high=many)


def effect_interval(effect: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact two-sided interval of the standardised mean delta / sd, whose estimate from `n` pairs is `effect`.

    t = effect sqrt(n) has the noncentral t distribution with n - 1 df and noncentrality delta sqrt(n) / sd. The ends
    are the noncentralities at which the observed t lies at the quantiles (1 + confidence) / 2 and (1 - confidence) / 2
    (Hedges & Olkin 1985, Statistical Methods for Meta-Analysis, section 5.E; Cumming & Finch 2001, Educ. Psychol. Meas.
    61, p. 532).
    """
    t, tail = effect * math.sqrt(n), (1 - confidence) / 2
    low, high = (_noncentrality(t, n - 1, quantile) for quantile in (1 - tail, tail))
    return low / math.sqrt(n), high / math.sqrt(n)


def _noncentrality(t: float, df: int, quantile: float) -> float:
    """The noncentrality at which P(T <= t) is the quantile; the probability falls as the noncentrality rises."""
    if abs(t) > FAR:  # the interval is that of the sd alone up to rounding, and nobody is undecided here
        chi = special.chdtri(df, quantile if t > 0 else 1 - quantile)
        return t * math.sqrt(chi / df)
    reach = 8 + 2 * abs(t) + 40 / df
    low, high = t - reach, t + reach
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if special.nctdtr(df, middle, t) > quantile else (low, middle)
    return (low + high) / 2


def _power(n: npt.NDArray[np.int64], delta: float, sd: Values, alpha: float) -> Values:
    """The function `power` for several numbers of pairs, each with its sd."""
    flat = sd == 0
    found = np.where(flat, (delta > 0) & (2.0**-n <= alpha), 0.0)
    if flat.all():
        return found
    from scipy.stats import nct  # imported here, as it takes half a second: only undecided verdicts need it

    critical = special.stdtrit(n - 1, 1 - alpha)
    shift = delta * np.sqrt(n) / np.where(flat, 1.0, sd)
    far = (shift < -40) | (shift > 10 * (1 + critical))  # 0 or 1 up to rounding; scipy's series may not converge here
    found = np.where(~flat & far, shift > 0, found)
    inside = ~flat & ~far
    found[inside] = nct.sf(critical[inside], n[inside] - 1, shift[inside])
    return found


def _check(delta: float, sd: float, alpha: float) -> None:
    if not math.isfinite(delta):
        raise bad_value("delta", delta, "a finite distance from the bound, in the unit of sd")
    if not 0 <= sd < math.inf:
        raise bad_value("sd", sd, "the standard deviation of the differences, 0 or more")
    if not 0 < alpha < 0.5:
        raise bad_value("alpha", alpha, "a one-sided level, more than 0 and less than 0.5")
