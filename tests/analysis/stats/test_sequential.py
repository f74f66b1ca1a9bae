"""Group-sequential levels: published boundaries, exact bivariate probabilities, and simulated looks at true nulls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special
from scipy import stats as scipy_stats

from analysis.stats import paired as stats
from analysis.stats.sequential import SPENDING, SequentialPlan, boundaries, plan, planned_looks, sequential_p
from lth_trainable.errors import UserError

LOOKS = (5, 8, 12, 16, 24)
SIMULATIONS = 20_000


def t_test_p(looks: Sequence[int], runs: int, effect: float = 0.0, seed: int = 0) -> np.ndarray:
    """p of the one-sided t test at each look, shape (runs, looks), of normal differences, mean `effect`, sd 1."""
    d = np.random.default_rng(seed).normal(effect, 1, (runs, looks[-1]))
    return np.stack(
        [special.stdtr(n - 1, -d[:, :n].mean(1) * math.sqrt(n) / d[:, :n].std(1, ddof=1)) for n in looks], axis=1
    )


def crossings(z: Sequence[float], fractions: Sequence[float], runs: int, seed: int = 0) -> np.ndarray:
    """Whether Brownian motions at `fractions` are beyond boundaries `z`, shape (runs, looks)."""
    steps = np.sqrt(np.diff([0.0, *fractions])) * np.random.default_rng(seed).normal(size=(runs, len(z)))
    return steps.cumsum(1) / np.sqrt(fractions) > np.array(z)


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        ("obrien_fleming", (4.8769, 3.3569, 2.6803, 2.2898, 2.0310)),
        ("pocock", (2.4380, 2.4268, 2.4101, 2.3966, 2.3859)),
    ],
)
def test_five_equal_looks_have_the_published_boundaries(spending: str, published: tuple[float, ...]) -> None:
    """Lan-DeMets boundaries at 0.025 one-sided, as tabulated to four digits; their grids are coarser than ours."""
    found = plan((10, 20, 30, 40, 50), 0.025, spending)
    assert found.boundaries == pytest.approx(published, rel=0, abs=2e-4)
    assert found.levels == pytest.approx(scipy_stats.norm.sf(published), rel=0, abs=1e-5)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.001])
def test_one_look_is_plain_alpha(spending: str, alpha: float) -> None:
    assert plan([12], alpha, spending).levels == (alpha,)
    assert plan([12], alpha, spending).spent == (alpha,)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("looks", [LOOKS, (5, 6, 7), (2, 100), tuple(range(5, 41))], ids=str)
def test_spending_grows_to_alpha(spending: str, looks: tuple[int, ...]) -> None:
    found = plan(looks, 0.05, spending)
    assert found.spent[-1] == 0.05
    assert all(early < late for early, late in pairwise(found.spent))
    assert all(0 <= level <= 0.05 for level in found.levels)
    assert SPENDING[spending](1.0, 0.05) == pytest.approx(0.05, rel=1e-12)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize(("early", "late"), [(5, 8), (2, 40), (39, 40)])
def test_two_looks_cross_with_exactly_alpha(spending: str, early: int, late: int) -> None:
    """P(no crossing) is a bivariate normal probability with correlation sqrt(t); by one-dimensional quadrature."""
    found = plan((early, late), 0.05, spending)
    a, b = found.boundaries
    rho = math.sqrt(early / late)
    inside, _ = integrate.quad(
        lambda x: scipy_stats.norm.pdf(x) * special.ndtr((b - rho * x) / math.sqrt(1 - rho**2)), -12, min(a, 12),
        epsabs=1e-13, points=[0, min(a, 12) - 0.5], limit=400,
    )  # fmt: skip
    assert inside == pytest.approx(0.95, rel=0, abs=1e-10)


def test_each_look_spends_its_part() -> None:
    """Simulated z tests: the part of paths that cross first at each look, to four standard errors."""
    runs = 200_000
    for spending in SPENDING:
        found = plan(LOOKS, 0.05, spending)
        crossed = crossings(found.boundaries, [n / 24 for n in LOOKS], runs)
        parts = np.diff([0.0, *found.spent])
        first = np.bincount(crossed.argmax(1)[crossed.any(1)], minlength=len(LOOKS)) / runs
        assert (np.abs(first - parts) <= 4 * np.sqrt(parts / runs)).all()


def test_equal_boundaries_come_back() -> None:
    """Spending what Pocock's constant for two equal looks spends (2.178 at 0.025) gives the constant twice."""
    upper = 2.178
    both = 2 * scipy_stats.norm.sf(upper) - scipy_stats.multivariate_normal.cdf(
        [-upper, -upper], cov=np.array([[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    )
    assert both == pytest.approx(0.025, abs=2e-5)  # the constant has three decimals
    assert boundaries([0.5, 1.0], [float(scipy_stats.norm.sf(upper)), float(both)]) == pytest.approx([upper] * 2)


@pytest.mark.parametrize("looks", [LOOKS, (8, 12, 16, 24), (10, 20, 40)], ids=str)
@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_looking_by_plan_does_not_inflate_alpha(looks: tuple[int, ...], alpha: float) -> None:
    """Type I error of t tests at the levels of O'Brien and Fleming: alpha, up to three standard errors."""
    rejected = (t_test_p(looks, SIMULATIONS) <= np.array(plan(looks, alpha).levels)).any(1)
    assert rejected.mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / SIMULATIONS)


@pytest.mark.parametrize(
    ("looks", "obrien_fleming", "pocock"),
    [
        (LOOKS, 0.0513, 0.0534),
        ((8, 12, 16, 24), 0.0517, 0.0521),
        ((10, 20, 40), 0.0502, 0.0512),
        (tuple(range(5, 13)), 0.0551, 0.0527),
        ((2, 3, 4, 5), 0.0574, 0.0591),
    ],
    ids=str,
)
def test_the_excess_of_few_pairs_is_the_documented_one(
    looks: tuple[int, ...], obrien_fleming: float, pocock: float
) -> None:
    """The significance-level approach is approximate: the table in the docstring of `plan`, to four standard errors."""
    p = t_test_p(looks, SIMULATIONS, seed=1)
    for spending, documented in (("obrien_fleming", obrien_fleming), ("pocock", pocock)):
        rejected = (p <= np.array(plan(looks, 0.05, spending).levels)).any(1)
        assert abs(rejected.mean() - documented) < 4 * math.sqrt(documented * (1 - documented) / SIMULATIONS)
        assert f"{documented:.4f}" in (plan.__doc__ or "")


def test_looking_without_a_plan_does() -> None:
    """The same looks at alpha each: what the plan is for."""
    assert (t_test_p(LOOKS, SIMULATIONS) <= 0.05).any(1).mean() > 0.12


def test_a_clear_effect_needs_fewer_seeds() -> None:
    """Effect of one sd: nearly always found, and at half the planned seeds by looks of about the same level."""
    p = t_test_p(LOOKS, 4000, effect=1.0)
    for spending, most in (("obrien_fleming", 14.5), ("pocock", 11.0)):
        rejected = p <= np.array(plan(LOOKS, 0.05, spending).levels)
        taken = np.where(rejected.any(1), np.array(LOOKS)[rejected.argmax(1)], LOOKS[-1])
        assert rejected.any(1).mean() > 0.99
        assert taken.mean() < most


def test_a_look_and_its_level() -> None:
    found = plan(LOOKS, 0.05)
    assert [found.level_at(n) for n in LOOKS] == list(found.levels)
    assert (found.alpha, found.spending, found.looks) == (0.05, "obrien_fleming", LOOKS)
    with pytest.raises(
        UserError, match="look: found 9; expected one of the planned numbers of pairs: 5, 8, 12, 16, 24"
    ):
        found.level_at(9)


def test_the_first_look_that_rejects() -> None:
    found = plan(LOOKS, 0.05, "pocock")
    assert found.rejected_at([]) is None
    assert found.rejected_at([0.5, 0.02, 0.04]) is None
    assert found.rejected_at([0.5, 0.012, 0.9]) == 8
    assert found.rejected_at(found.levels) == 5
    with pytest.raises(UserError, match="p_values"):
        found.rejected_at([0.5] * 6)


def test_it_goes_with_the_t_test_of_the_verdicts() -> None:
    d = np.random.default_rng(5).normal(0.8, 1, 24)
    p = [stats.superiority(d[:n]).p for n in LOOKS]
    assert p == pytest.approx([scipy_stats.ttest_1samp(d[:n], 0, alternative="greater").pvalue for n in LOOKS])
    stop = plan(LOOKS, 0.05).rejected_at(p)
    assert stop is not None and stats.superiority(d[:stop]).p <= plan(LOOKS, 0.05).level_at(stop)


def test_a_look_with_nothing_to_spend_rejects_nothing() -> None:
    """At 2 of 1000 pairs O'Brien and Fleming spend 1e-400: no p is small enough, and the last look has all of alpha."""
    found = plan((2, 4, 1000), 0.05)
    assert found.levels[:2] == (0.0, 0.0)
    assert found.boundaries[:2] == (math.inf, math.inf)
    assert found.levels[2] == pytest.approx(0.05, rel=1e-9)
    assert found.rejected_at([1e-9, 1e-9, 0.04]) == 1000


def test_plans_are_values() -> None:
    assert plan([5, 8], 0.05) == plan((5, 8), 0.05)
    assert isinstance(plan(range(5, 9), 0.05), SequentialPlan)


@pytest.mark.parametrize("looks", [[], [1, 5], [5, 5], [8, 5]], ids=str)
def test_looks_that_are_no_plan_are_refused(looks: list[int]) -> None:
    with pytest.raises(UserError, match="looks: found"):
        plan(looks, 0.05)


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(UserError, match="spending: found 'haybittle'; expected one of obrien_fleming, pocock"):
        plan(LOOKS, 0.05, "haybittle")
    for alpha in (0.0, 0.5, 5):
        with pytest.raises(UserError, match="alpha: found"):
            plan(LOOKS, alpha)


@pytest.mark.parametrize(
    ("most", "looks"),
    [(5, (5,)), (6, (6,)), (7, (5, 7)), (10, (5, 8, 10)), (20, (5, 8, 12, 20)), (36, (5, 8, 12, 18, 27, 36))],
)
def test_looks_start_at_five_and_grow_by_half(most: int, looks: tuple[int, ...]) -> None:
    assert planned_looks(most) == looks


def test_fewer_than_five_seeds_are_no_plan() -> None:
    with pytest.raises(UserError, match="max-seeds: found 4; expected at least 5"):
        planned_looks(4)


@pytest.mark.parametrize("looks", [LOOKS, (5, 8, 12, 20), (6,)], ids=str)
@pytest.mark.parametrize("alpha", [0.05, 0.0123, 0.05 / 6])
def test_the_sequential_p_of_a_level_is_its_alpha(looks: tuple[int, ...], alpha: float) -> None:
    """At each look: p just at the level of the plan at `alpha` has the sequential p `alpha`, to five digits."""
    for k, level in enumerate(plan(looks, alpha).levels):
        assert sequential_p(looks, [1.0] * k + [level]) == pytest.approx(alpha, rel=1e-5)


def test_levels_grow_with_alpha_so_that_the_smallest_alpha_exists() -> None:
    """The condition under which sequential p values go into Holm and graphs (Maurer & Bretz 2013, section 3)."""
    for looks in (LOOKS, (5, 8, 10), (5, 8, 12, 18, 27, 36)):
        levels = np.array([plan(looks, float(alpha)).levels for alpha in np.geomspace(1e-6, 0.4, 25)])
        assert (np.diff(levels, axis=0) >= 0).all()


def test_the_sequential_p_never_grows_and_rejects_when_the_plan_does() -> None:
    plans = [plan(LOOKS, alpha) for alpha in (0.05, 0.01)]
    for row in t_test_p(LOOKS, 300, effect=0.6, seed=4).tolist():
        found = [sequential_p(LOOKS, row[:k]) for k in range(1, len(LOOKS) + 1)]
        assert all(late <= early for early, late in pairwise(found))
        for planned in plans:
            assert (found[-1] <= planned.alpha) == (planned.rejected_at(row) is not None)


def test_the_ends_of_the_sequential_p() -> None:
    assert sequential_p(LOOKS, [0.6]) == 1.0
    assert sequential_p((5,), [1e-12]) == 1e-7
    assert sequential_p((2, 4, 1000), [1e-300]) == 1.0, "a look with nothing to spend rejects at no alpha"
    for wrong in ([], [0.1] * 6):
        with pytest.raises(UserError, match="p_values: found"):
            sequential_p(LOOKS, wrong)
