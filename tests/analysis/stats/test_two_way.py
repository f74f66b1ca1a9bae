"""Variance components of crossed seeds: a layout that can be worked out by hand, and no bias in simulations."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.stats.two_way import Components, variance_components


def test_a_layout_without_a_rest() -> None:
    """init is 0, 2, 4 (variance 4) and order 0, 1 (variance 1/2); with nothing beside them the rest is 0."""
    values = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    found = variance_components(values)
    assert (found.init, found.order, found.both) == pytest.approx((4.0, 0.5, 0.0), abs=1e-12)
    assert variance_components(values.T) == Components(init=found.order, order=found.init, both=found.both)
    assert found.shares == pytest.approx((4 / 4.5, 0.5 / 4.5, 0))


def test_only_a_rest() -> None:
    """Mean squares by hand: 0 of init, 0 of order, 1 of the rest; unbiased estimates of 0 may be negative."""
    found = variance_components(np.array([[0.5, -0.5], [-0.5, 0.5]]))
    assert (found.init, found.order, found.both) == pytest.approx((-0.5, -0.5, 1.0))
    assert found.shares == (0, 0, 1)


def test_equal_values_have_no_shares() -> None:
    assert variance_components(np.ones((3, 3))).shares == (None, None, None)


def test_the_estimates_are_unbiased() -> None:
    """2,000 layouts of 5 initialisations and 4 orders: the means are within four standard errors of the truth."""
    rng, truth = np.random.default_rng(0), np.array([2.0, 0.5, 1.0])
    sd = np.sqrt(truth)
    found = []
    for _ in range(2000):
        init, order = rng.normal(0, sd[0], (5, 1)), rng.normal(0, sd[1], (1, 4))
        components = variance_components(90 + init + order + rng.normal(0, sd[2], (5, 4)))
        found.append((components.init, components.order, components.both))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(mean - truth) < 4 * error).all() and (error < 0.1 * truth + 0.05).all()
