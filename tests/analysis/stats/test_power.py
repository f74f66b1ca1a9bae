"""Power of the paired t test: against an integral, the formula for large n, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from analysis.stats import paired as stats
from analysis.stats.power import SeedsRange, effect_interval, power, seeds_needed, seeds_range
from lth_trainable.errors import UserError


def integrated(n: int, effect: float, alpha: float) -> float:
    """P(T > c) as the mean of Phi(effect sqrt(n) - c s) over the sample deviation s: no noncentral t in it."""
    df = n - 1
    critical, s = scipy_stats.t.isf(alpha, df), scipy_stats.chi(df, scale=1 / math.sqrt(df))
    low, high = s.ppf(1e-14), s.isf(1e-14)
    value, error = integrate.quad(
        lambda x: s.pdf(x) * scipy_stats.norm.cdf(effect * math.sqrt(n) - critical * x), low, high, epsabs=1e-11,
        limit=400,
    )  # fmt: skip
    assert error < 1e-8
    return float(value)


@pytest.mark.parametrize("n", [2, 3, 5, 12, 36, 200])
@pytest.mark.parametrize(("delta", "sd"), [(0.5, 1.2), (1.0, 1.2), (-0.3, 0.7), (0.0, 1.0), (2.0, 0.5)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_is_the_integral(n: int, delta: float, sd: float, alpha: float) -> None:
    assert power(n, delta, sd, alpha) == pytest.approx(integrated(n, delta / sd, alpha), rel=0, abs=1e-7)


def test_power_at_the_bound_is_alpha() -> None:
    for n in (2, 5, 100):
        assert power(n, 0.0, 1.3, 0.05) == pytest.approx(0.05, rel=0, abs=1e-10)


@pytest.mark.parametrize(("n", "delta", "margin"), [(5, 0.9, 0.0), (10, 0.1, 0.5), (36, 0.0, 0.5)])
def test_power_is_that_of_simulated_verdicts(n: int, delta: float, margin: float) -> None:
    """Non-inferiority at a true difference `delta` and a margin; sd 1.2 pp, that of the tutorial's data."""
    rng = np.random.default_rng(n)
    trials = 3000
    hits = [stats.non_inferiority(d, margin).p <= 0.05 for d in rng.normal(delta, 1.2, (trials, n))]
    expected = power(n, delta + margin, 1.2, 0.05)
    assert abs(np.mean(hits) - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


def test_seeds_needed_is_the_first_number_with_the_power() -> None:
    for delta in (0.1, 0.25, 0.5, 1.0, 3.0):
        for wanted in (0.5, 0.8, 0.95):
            n = seeds_needed(delta, 1.0, 0.05, wanted)
            assert n is not None
            assert power(n, delta, 1.0, 0.05) >= wanted
            assert n == 2 or power(n - 1, delta, 1.0, 0.05) < wanted


def test_seeds_for_the_tutorials_data() -> None:
    """REFERENCE says about 36 for 0.5 pp and about 10 for 1 pp at sd 1.2; the noncentral t adds two and one."""
    assert (seeds_needed(0.5, 1.2, 0.05), seeds_needed(1.0, 1.2, 0.05)) == (38, 11)


def quick_figure(ratio: float, alpha: float, wanted: float) -> float:
    """(z(1-alpha) + z(power))^2 (sd / delta)^2: the normal approximation."""
    return float(scipy_stats.norm.isf(alpha) + scipy_stats.norm.ppf(wanted)) ** 2 * ratio**2


@pytest.mark.parametrize("ratio", [5.0, 10.0, 30.0])
@pytest.mark.parametrize(("alpha", "wanted"), [(0.05, 0.8), (0.025, 0.9)])
def test_many_seeds_approach_the_quick_figure(ratio: float, alpha: float, wanted: float) -> None:
    """To second order in 1/n the t test needs z(1-alpha)^2 / 2 pairs more (Guenther 1981, Am. Statistician 35)."""
    n = seeds_needed(1.0, ratio, alpha, wanted)
    assert n is not None
    more = float(scipy_stats.norm.isf(alpha)) ** 2 / 2
    assert 0 <= n - quick_figure(ratio, alpha, wanted) - more < 1.1  # rounded up; 0.1 for higher orders
    assert n == pytest.approx((6.2 if alpha == 0.05 else 10.5) * ratio**2, rel=0.02 + 2.5 / n)


def test_limits_of_the_search() -> None:
    assert seeds_needed(0.0, 1.0, 0.05) is None
    assert seeds_needed(-1.0, 1.0, 0.05) is None
    assert seeds_needed(0.02, 1.0, 0.05) is None
    assert seeds_needed(0.02, 1.0, 0.05, at_most=20_000) == 15_458
    assert seeds_needed(5.0, 1.0, 0.05) == 3
    assert seeds_needed(5.0, 1.0, 0.05, at_least=5) == 5
    assert seeds_needed(0.5, 1.2, 0.05, at_most=38) == 38
    assert seeds_needed(0.5, 1.2, 0.05, at_most=37) is None


def test_equal_differences_are_decided_by_the_sign_flip() -> None:
    assert [power(n, 0.5, 0.0, 0.05) for n in (4, 5)] == [0.0, 1.0]
    assert stats.superiority([0.5] * 5).p <= 0.05 < stats.superiority([0.5] * 4).p
    assert power(5, 0.0, 0.0, 0.05) == 0.0
    assert seeds_needed(0.5, 0.0, 0.05) == 5


def test_extremes_are_zero_and_one() -> None:
    assert power(5, 1e9, 1.0, 0.05) == 1.0
    assert power(5, -1e9, 1.0, 0.05) == 0.0
    assert seeds_needed(1e12, 1.0, 1e-5) == 2


@pytest.mark.parametrize(
    ("wrong", "where"),
    [({"n": 1}, "n"), ({"sd": -1.0}, "sd"), ({"sd": math.nan}, "sd"), ({"alpha": 0.0}, "alpha"),
     ({"alpha": 0.5}, "alpha"), ({"delta": math.inf}, "delta")],
)  # fmt: skip
def test_what_is_refused(wrong: dict[str, float], where: str) -> None:
    with pytest.raises(UserError, match=f"^{where}: found"):
        power(**{"n": 5, "delta": 0.5, "sd": 1.0, "alpha": 0.05, **wrong})  # type: ignore[arg-type]


def test_a_search_that_makes_no_sense_is_refused() -> None:
    for wanted in (0.05, 1.0, 80):
        with pytest.raises(UserError, match="power: found"):
            seeds_needed(0.5, 1.0, 0.05, wanted)
    with pytest.raises(UserError, match="at_least: found"):
        seeds_needed(0.5, 1.0, 0.05, at_most=4, at_least=5)


@pytest.mark.parametrize(("effect", "n"), [(0.1, 8), (0.75, 8), (-0.4, 5), (2.0, 5), (3.0, 2), (0.3, 40)])
def test_the_interval_of_an_effect_is_that_of_the_noncentral_t(effect: float, n: int) -> None:
    t = effect * np.sqrt(n)
    found = [float(scipy_stats.nct.cdf(t, n - 1, end * np.sqrt(n))) for end in effect_interval(effect, n)]
    assert found == pytest.approx([0.9, 0.1], abs=1e-6)


def test_the_interval_of_a_very_large_effect_is_that_of_the_sd() -> None:
    near, far = effect_interval(29.9 / np.sqrt(5), 5), effect_interval(30.1 / np.sqrt(5), 5)
    assert np.divide(near, 29.9) == pytest.approx(np.divide(far, 30.1), rel=0.01)
    assert effect_interval(-100.0, 5) == pytest.approx([-end for end in effect_interval(100.0, 5)[::-1]])


def test_the_range_of_seeds_follows_from_the_interval_of_the_effect() -> None:
    d = np.array([0.9, 0.2, 0.5, 0.1, 0.6, 0.4, 0.7, 0.3])
    found = seeds_range(d, 0.0, 0.05)
    low, high = effect_interval(float(d.mean() / d.std(ddof=1)), 8)
    assert (found.low, found.high) == (seeds_needed(high, 1.0, 0.05), seeds_needed(low, 1.0, 0.05))
    assert found.point == seeds_needed(float(d.mean()), float(d.std(ddof=1)), 0.05)
    assert seeds_range(d - 0.4, 0.0, 0.05).high is None, "the mean may lie on the bound"
    assert seeds_range([0.5] * 5, 0.0, 0.05) == SeedsRange(low=5, point=5, high=5), "no spread: the sign flip"


def test_seeds_needed_reach_their_power() -> None:
    """Simulated power of the t test at the number of seeds that it is said to need, and not at a tenth fewer."""
    n, trials = seeds_needed(0.4, 1.0, 0.05), 2000
    assert n is not None
    d = np.random.default_rng(8).normal(0.4, 1, (trials, n))
    found = float(np.mean([stats.superiority(row).p <= 0.05 for row in d]))
    noise = 4 * math.sqrt(0.8 * 0.2 / trials)
    assert abs(found - power(n, 0.4, 1.0, 0.05)) < noise
    assert power(n, 0.4, 1.0, 0.05) >= 0.8 > power(n - 1, 0.4, 1.0, 0.05)


def test_a_floor_of_the_variance_is_not_made_smaller_by_seeds() -> None:
    without = seeds_needed(1.0, 1.0, 0.05)
    assert without == seeds_needed(1.0, 1.0, 0.05, floor=0.0) == 8
    n = seeds_needed(1.0, 1.0, 0.05, floor=0.1)
    assert n is not None
    assert power(n, 1.0, math.sqrt(1 + 0.1 * n), 0.05) >= 0.8 > power(n - 1, 1.0, math.sqrt(1 + 0.1 * (n - 1)), 0.05)
    most = (1 / (1.645 + 0.842)) ** 2  # as n grows the test becomes that of a normal mean with variance `floor`
    assert seeds_needed(1.0, 1.0, 0.05, floor=0.97 * most) is not None
    assert seeds_needed(1.0, 1.0, 0.05, floor=1.03 * most) is None
