"""Statistics against scipy to 1e-10, against values worked out by hand, and by simulation where neither exists."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats import paired as stats

TIGHT = {"rel": 0, "abs": 1e-10}


def samples() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(mean, sd, n) for n in (2, 3, 5, 8, 20) for mean, sd in ((0, 1), (-0.7, 0.4), (2, 3))]


@pytest.mark.parametrize("d", samples(), ids=lambda d: f"n{len(d)}")
@pytest.mark.parametrize("bound", [0.0, -1.0, 0.3])
def test_superiority_is_scipys_one_sided_paired_t(d: np.ndarray, bound: float) -> None:
    dense = np.linspace(90, 95, len(d))
    expected = scipy_stats.ttest_rel(dense + d, dense + bound, alternative="greater").pvalue
    found = stats.superiority(d, bound)
    assert found.test == "paired t"
    assert found.p == pytest.approx(expected, **TIGHT)


@pytest.mark.parametrize("d", samples(), ids=lambda d: f"n{len(d)}")
def test_non_inferiority_and_inferiority_are_the_two_sides_of_the_margin(d: np.ndarray) -> None:
    less = scipy_stats.ttest_1samp(d, -0.5, alternative="less").pvalue
    greater = scipy_stats.ttest_1samp(d, -0.5, alternative="greater").pvalue
    assert stats.inferiority(d, 0.5).p == pytest.approx(less, **TIGHT)
    assert stats.non_inferiority(d, 0.5).p == pytest.approx(greater, **TIGHT)


@pytest.mark.parametrize("d", samples(), ids=lambda d: f"n{len(d)}")
def test_t_interval_is_scipys(d: np.ndarray) -> None:
    expected = scipy_stats.ttest_1samp(d, 0).confidence_interval(0.95)
    found = stats.t_interval(d)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(expected.low, **TIGHT), pytest.approx(expected.high, **TIGHT))
    assert found.mean == pytest.approx(np.mean(d), **TIGHT)


@pytest.mark.parametrize("bound", [0.0, -0.4])
@pytest.mark.parametrize("n", [2, 5, 8, 11])
def test_sign_flip_is_scipys_exact_permutation_test(n: int, bound: float) -> None:
    d = np.random.default_rng(n).normal(0.3, 1, n)
    expected = scipy_stats.permutation_test(
        (d - bound,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    ).pvalue
    assert stats.sign_flip_p(d, bound) == pytest.approx(expected, **TIGHT)


def test_sign_flip_counts_ties_whatever_their_rounding() -> None:
    """On a grid of 1/360 many flips have the observed sum; double rounding must not lose any."""
    d = 100 * np.array([1, 2, 3, -1, 2, 0, 1, 3]) / 360
    signs = itertools.product((-1, 1), repeat=len(d))
    counts = np.round(d * 360 / 100).astype(int)
    exact = np.mean([sum(s * c for s, c in zip(sign, counts, strict=True)) >= counts.sum() for sign in signs])
    assert stats.sign_flip_p(d) == exact


@pytest.mark.parametrize("n", [3, 5, 8])
def test_sign_flip_floor_is_two_to_the_minus_n(n: int) -> None:
    assert stats.sign_flip_p(np.linspace(1, 2, n)) == 2.0**-n


def convolved(d: np.ndarray) -> float:
    """Exact sign-flip p of whole numbers by convolution: 2^n flips of them have few different sums."""
    sums = np.ones(1)
    for value in np.abs(d):
        sums = np.convolve(sums, [0.5, *[0] * (2 * value - 1), 0.5] if value else [1])
    return float(sums[np.arange(-np.abs(d).sum(), np.abs(d).sum() + 1) >= d.sum()].sum())


@pytest.mark.parametrize("n", [1, 2, 3, 12, 21, 30])
def test_sign_flip_counts_all_flips_up_to_thirty_pairs(n: int) -> None:
    d = np.random.default_rng(n).integers(-4, 6, n)
    assert stats.sign_flip_p(d) == pytest.approx(convolved(d), **TIGHT)


def test_sign_flip_beyond_thirty_pairs_is_a_seeded_estimate() -> None:
    d = np.random.default_rng(0).integers(-4, 6, 36)
    exact = convolved(d)
    found = stats.sign_flip_p(d)
    assert 0.01 < exact < 0.5
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 100_000)
    assert found == stats.sign_flip_p(d)
    assert found != stats.sign_flip_p(d, seed=1)


@pytest.mark.parametrize("n", [31, 32, 33, 48, 101])
def test_sums_that_are_looked_up_are_those_of_the_signs_themselves(n: int) -> None:
    draws = np.random.default_rng(n)
    for d in (draws.integers(-4, 5, n) / 360, draws.normal(0.1, 1, n)):
        least = float(d.sum()) - 1e-12 * max(1.0, float(np.abs(d).sum()))
        generator, hits = np.random.Generator(np.random.PCG64(5)), 0
        for _ in range(10):
            signs = generator.integers(0, 2, size=(10_000, n), dtype=np.int8) * 2 - 1
            hits += int(np.count_nonzero(signs @ d >= least))
        assert stats.sign_flip_p(d, seed=5) == (1 + hits) / 100_001


def test_equal_differences_fall_back_to_the_sign_flip() -> None:
    d = 100 * (np.array([0.95, 0.96, 0.97, 0.94, 0.93]) - np.array([0.94, 0.95, 0.96, 0.93, 0.92]))  # 1 pp, rounded
    assert np.ptp(d) > 0, "the point of the case is rounding"
    assert stats.superiority(d) == stats.PValue(p=1 / 32, test="sign flip")
    assert stats.superiority(np.zeros(5)) == stats.PValue(p=1.0, test="sign flip")
    assert stats.standard_deviation(d) == 0
    interval = stats.t_interval(d)
    assert interval is not None
    assert interval.low == interval.high == interval.mean


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], **TIGHT)
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_fixed_sequence_stops_at_the_first_that_is_not_rejected() -> None:
    assert stats.fixed_sequence([0.01, 0.05, 0.06, 0.001], 0.05) == [True, True, False, None]
    assert stats.fixed_sequence([0.01, None, 0.001], 0.05) == [True, None, None]
    assert stats.fixed_sequence([], 0.05) == []


def test_hedges_g_corrects_cohens_d_exactly() -> None:
    d = np.array([0.2, -0.1, 0.4, 0.3, 0.0])
    j4 = math.gamma(2) / (math.sqrt(2) * math.gamma(1.5))
    assert stats.hedges_g(d) == pytest.approx(j4 * d.mean() / d.std(ddof=1), **TIGHT)
    assert stats.hedges_g([0.1, 0.2]) is None
    assert stats.hedges_g([0.1, 0.1, 0.1]) is None


def test_hedges_g_is_unbiased() -> None:
    """Mean of g over many samples is the true effect; Cohen's d would be 1 / J(4) = 1.25 times that."""
    rng = np.random.default_rng(5)
    g = np.array([stats.hedges_g(rng.normal(1, 1, 5)) for _ in range(4000)])
    assert abs(g.mean() - 1) < 4 * g.std() / math.sqrt(len(g))


def test_too_few_values() -> None:
    assert stats.t_interval([1.0]) is None
    with pytest.raises(ValueError, match="at least 2 pairs"):
        stats.superiority([1.0])
    for test in (lambda: stats.sign_flip_p([]), lambda: stats.sign_test_p(0, 0)):
        with pytest.raises(ValueError, match="at least 1 pair"):
            test()


@pytest.mark.parametrize("n", [1, 5, 8, 30])
def test_the_sign_test_is_scipys_binomial_test(n: int) -> None:
    for n_for in range(n + 1):
        expected = scipy_stats.binomtest(n_for, n, 0.5, alternative="greater").pvalue
        assert stats.sign_test_p(n_for, n) == pytest.approx(expected, **TIGHT)
