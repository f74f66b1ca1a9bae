"""The statistics of the verdicts: pure functions of paired differences, no tables, no files.

A *difference* is ticket minus dense of one seed, in percentage points (pp). Any other unit works too, as long as bounds
and margins are in the same unit. Tests are one-sided unless they say otherwise. The paired t test decides. The
sign-flip test is reported beside it, and replaces it if all differences are equal, when t is undefined. If values are
censored, the sign test decides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.stats import special

Values = npt.NDArray[np.float64]

EXACT_LIMIT = 30  # pairs up to which all 2^n sign flips are counted
SIGNS = 16  # in one number
MONTE_CARLO_FLIPS = 100_000  # standard error of p = 0.05: 0.0007
PAIRED_T, SIGN_FLIP, SIGN_TEST = "paired t", "sign flip", "sign test"
RELATIVE_TIE = 1e-12  # sums and spreads that differ by less, relative to the data, are equal up to rounding


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided interval for a mean, in the unit of the data."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PValue:
    """A p value, and its test: PAIRED_T, SIGN_FLIP if t is undefined, SIGN_TEST if values are censored."""

    p: float
    test: str


def t_value(df: float, confidence: float) -> float:
    """How far the two-sided t-interval reaches on either side, in standard errors. df: infinite for a normal one."""
    tail = (1 + confidence) / 2
    return float(special.ndtri(tail) if math.isinf(df) else special.stdtrit(df, tail))


def t_interval(values: Sequence[float] | Values, confidence: float = 0.95) -> Interval | None:
    """Mean and two-sided t-interval: mean +- t(n-1, (1+confidence)/2) sd / sqrt(n). None for fewer than 2 values.

    Not the bootstrap, whose coverage is too low with 5 values. Equal values give an interval of width 0.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return None
    mean = float(x.mean())
    half = t_value(len(x) - 1, confidence) * standard_deviation(x) / math.sqrt(len(x))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def standard_deviation(values: Sequence[float] | Values) -> float:
    """Sample standard deviation (n - 1), exactly 0 if the values are equal up to rounding. Needs 2 values."""
    x = np.asarray(values, dtype=np.float64)
    return 0.0 if is_constant(x) else float(x.std(ddof=1))


def is_constant(values: Sequence[float] | Values) -> bool:
    """Whether all values are equal up to rounding, so that the t statistic would divide by zero or by noise.

    The tolerance is relative to the largest value, or to 1 if all are smaller: accuracies that agree to 1e-12 pp differ
    by rounding only.
    """
    x = np.asarray(values, dtype=np.float64)
    return bool(np.ptp(x) <= RELATIVE_TIE * max(1.0, float(np.abs(x).max())))


def superiority(differences: Sequence[float] | Values, bound: float = 0.0) -> PValue:
    """H0: mean difference <= `bound`, against H1: mean difference > `bound`. One-sided paired t test, n - 1 df.

    If all differences are equal, the p of the sign-flip test is returned instead, and `test` says so. Raises
    `ValueError` for fewer than 2 differences.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        raise ValueError(f"a paired t test needs at least 2 pairs, found {len(d)}")
    if is_constant(d):
        return PValue(p=sign_flip_p(d, bound), test=SIGN_FLIP)
    t = (float(d.mean()) - bound) * math.sqrt(len(d)) / float(d.std(ddof=1))
    return PValue(p=float(special.stdtr(len(d) - 1, -t)), test=PAIRED_T)


def non_inferiority(differences: Sequence[float] | Values, margin: float) -> PValue:
    """H0: mean difference <= -`margin`, against H1: worse by less than the margin, which is positive."""
    return superiority(differences, -margin)


def inferiority(differences: Sequence[float] | Values, margin: float) -> PValue:
    """H0: mean difference >= -`margin`, against H1: worse by more than the margin. The reverse of `non_inferiority`."""
    return superiority(-np.asarray(differences, dtype=np.float64), margin)


def two_sided(differences: Sequence[float] | Values) -> PValue:
    """H0: mean difference = 0, two-sided: twice the smaller p of `superiority`, at most 1. Errors as there."""
    d = np.asarray(differences, dtype=np.float64)
    more, less = superiority(d), superiority(-d)
    return PValue(p=min(1.0, 2 * min(more.p, less.p)), test=more.test)


def two_sided_flip_p(differences: Sequence[float] | Values) -> float:
    """Two-sided sign-flip p: the fraction of flips whose sum is at least as far from 0; the sums are symmetric."""
    d = np.asarray(differences, dtype=np.float64)
    return min(1.0, 2 * min(sign_flip_p(d), sign_flip_p(-d)))


def sign_flip_p(differences: Sequence[float] | Values, bound: float = 0.0, seed: int = 0) -> float:
    """One-sided sign-flip (permutation) p for mean difference > `bound`: the fraction of flips with as large a sum.

    Exact over all 2^n flips for n <= 30, so never below 2^-n; beyond that (1 + hits) / (1 + draws) over 100,000 draws
    of a generator seeded by `seed` (Phipson & Smyth 2010, section 2, doi 10.2202/1544-6115.1585). Sums that are equal
    up to rounding count as equal. Raises `ValueError` without differences.
    """
    d = np.asarray(differences, dtype=np.float64) - bound
    if not len(d):
        raise ValueError("a sign-flip test needs at least 1 pair, found 0")
    least = float(d.sum()) - RELATIVE_TIE * max(1.0, float(np.abs(d).sum()))
    if len(d) <= EXACT_LIMIT:
        return _flips_reaching(d, least) / 2 ** len(d)
    hits = _random_flip_hits(d, least, seed)
    return (1 + hits) / (1 + MONTE_CARLO_FLIPS)


def sign_test_p(n_for: int, n: int) -> float:
    """P(at least `n_for` of `n` pairs speak for it | each does with probability 1/2): the exact sign test.

    A pair that speaks for neither side, or for which this is unknown, counts only in `n`, which is conservative.
    Conover 1999, Practical Nonparametric Statistics, section 3.4. Raises `ValueError` without pairs.
    """
    if n < 1:
        raise ValueError(f"a sign test needs at least 1 pair, found {n}")
    return float(special.bdtrc(n_for - 1, n, 0.5)) if n_for > 0 else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979, Scand. J. Statist. 6, p. 67).

    The i-th smallest of m is multiplied by m - i + 1, capped at 1 and never below a smaller one's.
    """
    m, adjusted, running = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def fixed_sequence(p_values: Sequence[float | None], alpha: float) -> list[bool | None]:
    """Test hypotheses in their given order, each at `alpha`, until the first that is not rejected.

    True: rejected; False: not rejected, which stops the sequence; None: not tested, since the sequence has stopped. A p
    of None (not enough data) stops the sequence too and gives None. The order must be fixed beforehand; then the chance
    of any false rejection stays below `alpha` without a correction (Maurer, Hothorn & Lehmacher 1995; Westfall &
    Krishen 2001, J. Statist. Plann. Inference 99, section 2).
    """
    decisions: list[bool | None] = []
    for p in p_values:
        if any(not decision for decision in decisions):
            decisions.append(None)
        else:
            decisions.append(None if p is None else p <= alpha)
    return decisions


def hedges_g(differences: Sequence[float] | Values) -> float | None:
    """Hedges' g_z: mean difference / sd of the differences, times the exact small-sample factor J(n - 1).

    J(m) = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)) (Hedges 1981, J. Educ. Statist. 6, eq. 6). None where it does not
    exist: fewer than 3 differences (J(1) = 0), or all of them equal.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 3 or is_constant(d):
        return None
    m = len(d) - 1
    log_j = math.lgamma(m / 2) - math.lgamma((m - 1) / 2) - math.log(m / 2) / 2
    return math.exp(log_j) * float(d.mean()) / float(d.std(ddof=1))


def _flips_reaching(d: Values, least: float) -> int:
    """How many of the 2^n choices of signs give a sum of at least `least`.

    Sums of one half of the differences are looked up among the sorted sums of the other half: 2^(n/2) sums, not 2^n.
    """
    half = len(d) // 2
    one, other = _all_flipped_sums(d[:half]), np.sort(_all_flipped_sums(d[half:]))
    return int(one.size * other.size - np.searchsorted(other, least - one, side="left").sum())


def _all_flipped_sums(d: Values) -> Values:
    """Sums of `d` under all 2^n choices of signs, shape (2^n,)."""
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _random_flip_hits(d: Values, least: float, seed: int) -> int:
    """How many of the Monte Carlo flips have a sum of at least `least`.

    The signs of 16 differences are one number, by which the sum of these 16 is looked up in a table of all 2^16.
    """
    sums = np.zeros(MONTE_CARLO_FLIPS)
    for number, codes in enumerate(_random_flips(len(d), seed)):
        sums += _sums_by_code(d[SIGNS * number : SIGNS * (number + 1)])[codes]
    return int(np.count_nonzero(sums >= least))


def _sums_by_code(d: Values) -> Values:
    """Sums of at most 16 differences under all choices of signs; bit i of the index: whether difference i counts."""
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums - value, sums + value])
    return sums


@functools.lru_cache(maxsize=4)
def _random_flips(n: int, seed: int) -> npt.NDArray[np.uint16]:
    """The signs of all Monte Carlo flips of `n` differences, 16 in a number, shape (n / 16, flips).

    All tests of a run with as many pairs have the same flips, so they are drawn once.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    codes, left = [], MONTE_CARLO_FLIPS
    while left:  # in blocks, to save memory
        block = min(left, 10_000)
        bits = generator.integers(0, 2, size=(block, n), dtype=np.int8).astype(bool)
        padded = np.pad(bits, ((0, 0), (0, -n % SIGNS)))
        codes.append(np.packbits(padded, axis=1, bitorder="little").view("<u2").astype(np.uint16))
        left -= block
    return np.ascontiguousarray(np.concatenate(codes).T)
