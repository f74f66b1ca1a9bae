"""Ladders in one family: against the graph of Bretz et al. itself, Holm, the fixed sequence, and simulated nulls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from analysis.stats import paired as stats
from analysis.stats.multiplicity import adjusted_p, ladder_decisions
from lth_trainable.errors import UserError

ALPHA = 0.05
SIMULATIONS = 4000


def by_graph(p: Sequence[Sequence[float]], alpha: float) -> list[list[bool]]:
    """Algorithm 1 of Bretz et al. 2009, step by step, on the graph of ladders, in exact fractions."""
    nodes = [(i, j) for i, ladder in enumerate(p) for j in range(len(ladder))]
    weight = {node: Fraction(int(node[1] == 0), len(p)) for node in nodes}
    edge = {(a, b): Fraction(0) for a in nodes for b in nodes}
    for i, j in nodes:
        if j + 1 < len(p[i]):
            edge[(i, j), (i, j + 1)] = Fraction(1)
        else:
            edge |= {((i, j), (k, 0)): Fraction(1, len(p) - 1) for k in range(len(p)) if k != i}
    left = list(nodes)
    while found := [node for node in left if p[node[0]][node[1]] <= weight[node] * alpha]:
        gone = found[0]
        left.remove(gone)
        for a in left:
            weight[a] += weight[gone] * edge[gone, a]
        old = dict(edge)
        for a in left:
            cycle = old[a, gone] * old[gone, a]
            for b in left:
                if a != b:
                    shared = old[a, b] + old[a, gone] * old[gone, b]
                    edge[a, b] = shared / (1 - cycle) if cycle < 1 else Fraction(0)
    return [[(i, j) not in left for j in range(len(ladder))] for i, ladder in enumerate(p)]


@pytest.mark.parametrize("lengths", [(1,), (4,), (1, 1, 1), (3, 2), (1, 4), (3, 1, 2), (2, 2, 2, 2)], ids=str)
def test_decisions_are_those_of_the_graph(lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(sum(lengths))
    for _ in range(150):
        p = [[float(x) for x in rng.random(n) ** 3 * 0.15] for n in lengths]
        for alpha in (0.01, ALPHA, 0.2):
            assert ladder_decisions(p, alpha) == by_graph(p, alpha), p


def test_an_example_by_hand() -> None:
    """At 5 % and three ladders: the second is rejected at 1/60 each, then two are left at 1/40, then one at 1/20."""
    p = [[0.02, 0.024, 0.03], [0.001, 0.016], [0.01, 0.04]]
    assert ladder_decisions(p, ALPHA) == [[True, True, False], [True, True], [True, False]]
    assert adjusted_p(p)[1] == pytest.approx([0.003, 0.048])
    assert adjusted_p(p)[0] == pytest.approx([0.048, 0.048, 0.06])  # held up by the second ladder, at 3 x 0.016
    assert adjusted_p(p)[2] == pytest.approx([0.03, 0.06])  # 3 x 0.01; held up by the first, at 2 x 0.03


def test_ladders_of_one_rung_are_holm() -> None:
    rng = np.random.default_rng(2)
    for n in (1, 2, 5, 12):
        for _ in range(100):
            p = [float(x) for x in rng.random(n) ** 2]
            assert [ladder[0] for ladder in adjusted_p([[x] for x in p])] == stats.holm(p)
    tied = [0.01, 0.01, 0.03]
    assert [ladder[0] for ladder in adjusted_p([[x] for x in tied])] == stats.holm(tied)


def test_one_ladder_is_the_fixed_sequence() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        p: list[float | None] = [float(x) if x > 0.01 else None for x in rng.random(5) * 0.1]
        for alpha in (0.02, ALPHA):
            assert ladder_decisions([p], alpha) == [[bool(x) for x in stats.fixed_sequence(p, alpha)]]
    assert ladder_decisions([[0.05, 0.05]], 0.05) == [[True, True]]


def test_adjusted_p_is_the_smallest_alpha_that_rejects() -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        p = [[float(x) for x in rng.random(n) ** 3] for n in (3, 1, 2)]
        adjusted = adjusted_p(p)
        for alpha in {value for ladder in adjusted for value in ladder if 1e-6 < value < 1}:
            for factor in (1 - 1e-9, 1 + 1e-9):  # not at the value itself, where p * 3 and alpha / 3 round apart
                expected = [[value <= alpha * factor for value in ladder] for ladder in adjusted]
                assert by_graph(p, alpha * factor) == expected


def test_no_data_ends_a_ladder_that_still_counts() -> None:
    assert ladder_decisions([[None, 0.0001], [0.024]], ALPHA) == [[False, False], [True]]
    assert ladder_decisions([[None, 0.0001], [0.026]], ALPHA) == [[False, False], [False]]
    assert adjusted_p([[0.01, None, 0.001], [0.5]])[0] == [0.02, 1.0, 1.0]
    assert ladder_decisions([], ALPHA) == []


@pytest.mark.parametrize("true_from", [(0, 0, 0), (3, 0, 0), (3, 3, 0), (1, 2, 3), (2, 0, 3), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("correlation", [0.0, 0.7, -0.45])
def test_the_familywise_error_stays_below_alpha(true_from: tuple[int, ...], correlation: float) -> None:
    """Rungs are false nulls, nearly always rejected, up to `true_from` and true beyond.

    p values of one rung of all ladders share a part of their noise: the dense trials, or for a negative correlation the
    worst that three ladders can have. The tolerance is three standard errors of the simulated error at alpha.
    """
    rng = np.random.default_rng([*true_from, int(100 * correlation) + 100])
    covariance = np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)
    noise = rng.multivariate_normal(np.zeros(3), covariance, size=(SIMULATIONS, 4)).swapaxes(1, 2)
    null = np.arange(4) >= np.array(true_from)[:, None]
    p = 0.5 * np.vectorize(math.erfc)((noise + np.where(null, 0.0, 4.5)) / math.sqrt(2))
    errors = sum(bool((np.array(ladder_decisions(case, ALPHA)) & null).any()) for case in p.tolist())
    assert errors / SIMULATIONS <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / SIMULATIONS)


def test_shares_are_used_up() -> None:
    """Two ladders false throughout, one true, independent: the whole of alpha reaches it, so the error is alpha."""
    rng = np.random.default_rng(6)
    last = rng.random(SIMULATIONS)
    errors = np.mean([ladder_decisions([[1e-9, 1e-9], [1e-9], [float(x), 0.9]], ALPHA)[2][0] for x in last])
    assert errors == np.mean(last <= ALPHA)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="ladder 1: found"):
        adjusted_p([[0.1], []])
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="p of ladder 0, rung 1"):
            adjusted_p([[0.1, wrong]])
    with pytest.raises(UserError, match="alpha"):
        ladder_decisions([[0.1]], 0)
