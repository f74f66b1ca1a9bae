"""Power of the one-sided paired t test, and how many seeds it needs; for planning, from the spread in a pilot run.

`delta` is how far the true mean difference is beyond the tested bound: the true difference itself for
superiority ("beats", bound 0), the true difference plus the margin for non-inferiority ("matches", bound -margin).
`sd` is the standard deviation of the paired differences, in the unit of `delta`; `alpha` is one-sided.
"""

from __future__ import annotations

import math

from scipy import special

from lth_trainable.errors import bad_value


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
    return _power(n, delta, sd, alpha)


def seeds_needed(
    delta: float, sd: float, alpha: float, power: float = 0.8, at_most: int = 10_000, at_least: int = 2
) -> int | None:
    """The fewest seeds (pairs), from `at_least` to `at_most`, that give the test the `power`; None if none does.

    Power rises with n for delta > 0, so the number is found by bisection; for delta <= 0 no number is enough. About
    6.2 (sd / delta)^2 at 5 % and 80 %, and one or two more for few seeds. Raises `UserError` as the function `power`
    does, and for a power that is not between alpha and 1.
    """
    _check(delta, sd, alpha)
    if not alpha < power < 1:
        raise bad_value("power", power, f"a probability, more than alpha ({alpha:g}) and less than 1")
    if not 2 <= at_least <= at_most:
        raise bad_value("at_least", at_least, f"2 to at_most ({at_most})")
    if delta <= 0 or _power(at_most, delta, sd, alpha) < power:
        return None
    short, enough = at_least - 1, at_most
    while enough - short > 1:
        middle = (short + enough) // 2
        if _power(middle, delta, sd, alpha) < power:
            short = middle
        else:
            enough = middle
    return enough


def _power(n: int, delta: float, sd: float, alpha: float) -> float:
    if sd == 0:
        return float(delta > 0 and 2.0**-n <= alpha)
    from scipy.stats import nct  # imported here, as it takes half a second: only undecided verdicts need it

    critical, shift = float(special.stdtrit(n - 1, 1 - alpha)), delta * math.sqrt(n) / sd
    if shift < -40 or shift > 10 * (1 + critical):  # 0 or 1 up to rounding; the series in scipy may not converge here
        return float(shift > 0)
    return float(nct.sf(critical, n - 1, shift))


def _check(delta: float, sd: float, alpha: float) -> None:
    if not math.isfinite(delta):
        raise bad_value("delta", delta, "a finite distance from the bound, in the unit of sd")
    if not 0 <= sd < math.inf:
        raise bad_value("sd", sd, "the standard deviation of the differences, 0 or more")
    if not 0 < alpha < 0.5:
        raise bad_value("alpha", alpha, "a one-sided level, more than 0 and less than 0.5")
