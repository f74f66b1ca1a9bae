"""Group-sequential plans: how to test more than once while seeds are added, by alpha spending.

Seeds are added in planned interim looks, such as 5, 8, 12, 16 and 24. At each look the nominal p of the one-sided
paired t test on all pairs so far is compared with a level for that look. The first p at or below its level is a
rejection, and more seeds are not needed. Looks and spending are fixed before the first look. There is no futility rule:
a run may stop without a rejection at any look, for any reason, which only lowers the chance of a false rejection.

For several hypotheses the p values of the looks are combined into one *sequential p* (Liu & Anderson 2008): the
smallest alpha whose plan would have rejected by now. It is an ordinary p value, so Holm and the ladders use it
unchanged; together this is the graphical procedure of Maurer & Bretz 2013 (Statistics in Biopharmaceutical Research 5,
p. 311).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import interpolate, optimize, special

from lth_trainable.errors import bad_value

FloatArray: TypeAlias = npt.NDArray[np.float64]

REACH = 8.5  # standard deviations that an integral covers on either side; the rest is below 1e-16
NEGLIGIBLE = 1e-12  # a look that may spend less than this rejects nothing
FIRST_LOOK, GROWTH, APART = 5, 1.5, 1.25  # pairs; ratio of looks; least ratio of the last to the one before
LEAST_ALPHA, MOST_ALPHA, KNOTS = 1e-7, 0.4999, 48  # range in which a sequential p is found, and its plans
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(16)  # a panel one standard deviation wide: exact to rounding


@dataclass(frozen=True, kw_only=True)
class SequentialPlan:
    """Interim looks, and the level at which each may reject.

    alpha: one-sided level of the whole plan. levels: nominal one-sided level of each look, to be compared with the p of
    the t test on all pairs so far. boundaries: the same as z values, infinite where a look rejects nothing. spent: the
    part of alpha spent up to and including each look; the last is alpha.
    """

    looks: tuple[int, ...]
    alpha: float
    spending: str
    boundaries: tuple[float, ...]
    levels: tuple[float, ...]
    spent: tuple[float, ...]

    def level_at(self, n: int) -> float:
        """Nominal one-sided level of the look at `n` pairs. Raises `UserError` if no look is planned there."""
        if n not in self.looks:
            planned = ", ".join(map(str, self.looks))
            raise bad_value("look", n, f"one of the planned numbers of pairs: {planned}")
        return self.levels[self.looks.index(n)]

    def rejected_at(self, p_values: Sequence[float]) -> int | None:
        """Number of pairs of the first look that rejects; None if none does.

        `p_values` are those of the looks taken so far, in their order. The p of a look is that of its own number of
        pairs, never of later ones: a look that rejected stays rejected.
        """
        if len(p_values) > len(self.looks):
            raise bad_value("p_values", len(p_values), f"at most one for each of {len(self.looks)} looks")
        taken = zip(self.looks, p_values, self.levels, strict=False)
        return next((n for n, p, level in taken if p <= level), None)


def plan(looks: Sequence[int], alpha: float, spending: str = "obrien_fleming") -> SequentialPlan:
    """The levels of `looks` (numbers of pairs, increasing) at which the whole plan has the one-sided level `alpha`.

    The boundaries are those of the z test with information fractions t = n / last n (Lan & DeMets 1983, Biometrika 70,
    p. 659), turned into nominal levels 1 - Phi(z), against which the p of the t test with n - 1 df is held: the
    significance-level approach (Pocock 1977, Biometrika 64, p. 191; Jennison & Turnbull 2000, Group Sequential Methods,
    chapters 3 and 4).

    Approximate for few pairs, since nominal p values of successive t tests hang together less than those of z tests.
    Simulated on normal differences (2,000,000 runs, standard error 0.00015), a plan at 0.05 rejects a true null in

        looks                obrien_fleming    pocock
        5, 8, 12, 16, 24             0.0513    0.0534
        8, 12, 16, 24                0.0517    0.0521
        10, 20, 40                   0.0502    0.0512
        each of 5 to 12              0.0551    0.0527
        2, 3, 4, 5                   0.0574    0.0591

    so few and late looks keep the level best; if the excess matters, plan with a smaller alpha.
    A single look has the level `alpha` exactly. Raises `UserError` for looks that do not increase from at least 2.
    """
    if not looks or looks[0] < 2 or any(late <= early for early, late in pairwise(looks)):
        raise bad_value("looks", list(looks), "increasing numbers of pairs, 2 or more, such as 5, 8, 12, 16, 24")
    if not 0 < alpha < 0.5:
        raise bad_value("alpha", alpha, "a probability, more than 0 and less than 0.5")
    if spending not in SPENDING:
        raise bad_value("spending", spending, f"one of {', '.join(SPENDING)}")
    fractions = [n / looks[-1] for n in looks]
    spent = [*(SPENDING[spending](t, alpha) for t in fractions[:-1]), alpha]
    z = boundaries(fractions, spent)
    return SequentialPlan(
        looks=tuple(looks),
        alpha=alpha,
        spending=spending,
        boundaries=tuple(z),
        levels=(_first_level(spent[0]), *(min(float(special.ndtr(-b)), alpha) for b in z[1:])),
        spent=tuple(spent),
    )


def planned_looks(most: int) -> tuple[int, ...]:
    """Numbers of seeds of the looks of a plan up to `most`: 5, then half as many more each time: 5, 8, 12, 18, 27, ...

    A look is left out if the last one is less than 1.25 times as large: few and late looks keep the level best. Raises
    `UserError` for fewer than 5 seeds, at which nothing is decided.
    """
    if most < FIRST_LOOK:
        raise bad_value("max-seeds", most, f"at least {FIRST_LOOK}", "below that nothing is decided")
    looks, n = [], FIRST_LOOK
    while APART * n <= most:
        looks.append(n)
        n = math.ceil(GROWTH * n)
    return (*looks, most)


def sequential_p(looks: Sequence[int], p_values: Sequence[float], spending: str = "obrien_fleming") -> float:
    """The smallest alpha whose plan of `looks` has rejected at a look taken so far. p_values: of these looks.

    It never grows with a further look. It is found between 1e-7 and 0.4999 on a curve through 48 plans; below, it is
    1e-7, and above, 1. P(sequential p <= alpha) is that of the plan at alpha: see `plan` for few pairs. Raises
    `UserError` for more p values than looks, or none. Liu & Anderson 2008, J. Am. Stat. Assoc. 103, p. 1621; Jennison &
    Turnbull 2000, section 9.5 (the least repeated p value).
    """
    if not 0 < len(p_values) <= len(looks):
        raise bad_value("p_values", len(p_values), f"1 to {len(looks)}, one for each look taken")
    curves = _curves(tuple(looks), spending)
    return min(curve(p) for curve, p in zip(curves, p_values, strict=False))


@functools.cache
def _curves(looks: tuple[int, ...], spending: str) -> tuple[Callable[[float], float], ...]:
    """For each look a function from its level to the alpha of the plan with that level."""
    alphas = np.geomspace(LEAST_ALPHA, MOST_ALPHA, KNOTS)
    levels = np.array([plan(looks, float(alpha), spending).levels for alpha in alphas])
    return tuple(_curve(levels[:, k], alphas) for k in range(len(looks)))


def _curve(levels: FloatArray, alphas: FloatArray) -> Callable[[float], float]:
    spends = levels > 0
    known, at = levels[spends], alphas[spends]
    between = interpolate.PchipInterpolator(np.log(known), np.log(at)) if len(known) > 1 else None

    def alpha(p: float) -> float:
        if between is None or p > known[-1]:
            return 1.0
        return float(at[0]) if p <= known[0] else math.exp(between(math.log(p)))

    return alpha


def obrien_fleming(t: float, alpha: float) -> float:
    """Alpha spent at information fraction `t`: 2 - 2 Phi(z(1 - alpha/2) / sqrt(t)), next to nothing early on.

    Lan & DeMets 1983, Biometrika 70, p. 659, alpha_1*; its boundaries are close to those of O'Brien & Fleming 1979.
    """
    return 2 * float(special.ndtr(special.ndtri(alpha / 2) / math.sqrt(t)))


def pocock(t: float, alpha: float) -> float:
    """Alpha spent at information fraction `t`: alpha ln(1 + (e - 1) t), about the same level at every look.

    Lan & DeMets 1983, Biometrika 70, p. 659, alpha_2*; its boundaries are close to those of Pocock 1977.
    """
    return alpha * math.log1p((math.e - 1) * t)


SPENDING: dict[str, Callable[[float, float], float]] = {"obrien_fleming": obrien_fleming, "pocock": pocock}


def boundaries(fractions: Sequence[float], spent: Sequence[float]) -> list[float]:
    """Upper z boundaries at information `fractions` at which P(crossed by look k | H0) = spent[k].

    With S = Z sqrt(t), a Brownian motion seen at the looks, f_k the density of S at look k of the paths that have not
    crossed yet, and d = t_k - t_(k-1):

        P(first crossing at k) = integral f_(k-1)(u) Phi((u - b_k) / sqrt(d)) du   gives b_k
        f_k(s) = integral f_(k-1)(u) phi((s - u) / sqrt(d)) / sqrt(d) du           for s < b_k

    Armitage, McPherson & Rowe 1969, J. R. Statist. Soc. A 132, p. 235; Jennison & Turnbull 2000, chapter 19. The
    integrals are sums over Gauss-Legendre panels no wider than one sqrt(d). Infinite where nothing is left to spend.
    """
    nodes, mass = np.zeros(1), np.ones(1)  # at t = 0 all paths are at 0
    found: list[float] = []
    crossed = 0.0
    widths = [math.sqrt(t - before) for before, t in zip([0.0, *fractions], fractions, strict=False)]
    for k, (t, width) in enumerate(zip(fractions, widths, strict=True)):
        b = _crossed_with(nodes, mass, width, spent[k] - crossed, REACH * math.sqrt(t))
        if math.isfinite(b):
            crossed = spent[k]
        found.append(b / math.sqrt(t))
        if k + 1 < len(fractions):
            edge = REACH * math.sqrt(t)
            fresh, weights = _panels(-edge, min(b, edge), min(width, widths[k + 1]))
            mass = weights * (_normal_density((fresh[:, None] - nodes) / width) @ mass) / width
            nodes = fresh
    return found


def _first_level(spent: float) -> float:
    """Level of the first look: exactly what it spends, not rounded by way of a boundary."""
    return spent if spent >= NEGLIGIBLE else 0.0


def _crossed_with(nodes: FloatArray, mass: FloatArray, width: float, probability: float, edge: float) -> float:
    """The boundary on S that paths at `nodes` cross with `probability` in a step of standard deviation `width`."""
    if probability < NEGLIGIBLE:
        return math.inf
    return float(
        optimize.brentq(
            lambda b: float(mass @ special.ndtr((nodes - b) / width)) - probability, -edge, edge, xtol=1e-12
        )
    )


def _panels(low: float, high: float, width: float) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of the integral from `low` to `high`, in equal panels not wider than `width`."""
    edges = np.linspace(low, high, max(1, math.ceil((high - low) / width)) + 1)
    half = (edges[1] - edges[0]) / 2
    nodes = (edges[:-1, None] + half) + half * _POINTS
    return nodes.ravel(), np.tile(half * _WEIGHTS, len(edges) - 1)


def _normal_density(z: FloatArray) -> FloatArray:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
