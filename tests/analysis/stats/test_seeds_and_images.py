"""Simulations crossed over seeds and images: alpha of the tests, of looks, and of seeds with splits of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from analysis.stats.crossed import CROSSED, Outcomes, crossed
from analysis.stats.sequential import plan, planned_looks
from tests.support.simulated import decides, runs, runs_of_own_splits, seeds_alone_p

ALPHA, RUNS = 0.025, 2000
MOST = ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def part(p: Sequence[float]) -> float:
    return sum(value <= ALPHA for value in p) / len(p)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 2.0, 3.0])  # 77, 97 and 99.7 % right
@pytest.mark.parametrize("image_sd", [0.0, 0.5])
@pytest.mark.parametrize(("n", "m"), [(5, 360), (8, 360), (20, 360), (8, 1000), (20, 1000)])
def test_alpha_holds_over_seeds_and_images(n: int, m: int, image_sd: float, level: float) -> None:
    rng = np.random.default_rng(n * m)
    for wanted in (-1.0, 0.0):
        found = [crossed(d) for d in runs(rng, RUNS, n, m, wanted, level, image_sd)]
        found = [each for each in found if each.variance_at(wanted) > 0]
        assert part([each.superiority(wanted).p for each in found]) <= MOST
        assert part([each.inferiority(wanted).p for each in found]) <= MOST


def test_seeds_alone_call_a_lower_ticket_matching_far_too_often_and_crossed_they_do_not() -> None:
    """Digits' size: 360 images, 8 seeds, 97 % right, a ticket that is 1 pp lower on other images of the same kind."""
    found = [crossed(d) for d in runs(np.random.default_rng(0), 400, 8, 360, -1.0, 2.0, 0.5)]
    assert part([seeds_alone_p(each, -1) for each in found]) > 3 * ALPHA
    assert part([each.superiority(-1).p for each in found]) <= 0.05
    assert all(each.superiority(-1).test == CROSSED for each in found)


def test_images_enough_and_seeds_enough_show_a_match() -> None:
    found = [crossed(d) for d in runs(np.random.default_rng(0), 100, 8, 2000, 0.0, 2.0, 0.5)]
    assert sum(each.superiority(-1).p <= ALPHA for each in found) >= 80


# -- a split of its own for each seed


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 2.0, 3.0])
@pytest.mark.parametrize("image_sd", [0.0, 0.5])
@pytest.mark.parametrize("n", [5, 8, 20])
def test_alpha_holds_if_each_seed_has_a_split_of_its_own(n: int, image_sd: float, level: float) -> None:
    rng = np.random.default_rng(n)
    for wanted in (-1.0, 0.0):
        found = [crossed(d) for d in runs_of_own_splits(rng, RUNS, n, wanted, level, image_sd)]
        found = [each for each in found if each.variance_at(wanted) > 0]
        assert part([each.superiority(wanted).p for each in found]) <= MOST
        assert part([each.inferiority(wanted).p for each in found]) <= MOST


def test_seeds_alone_are_not_sample_enough_where_their_splits_overlap() -> None:
    """20 seeds whose test splits have a fifth of their images in common, and a ticket that is 1 pp lower."""
    found = [crossed(d) for d in runs_of_own_splits(np.random.default_rng(0), 400, 20, -1.0, 3.0, 0.5)]
    assert part([seeds_alone_p(each, -1) for each in found]) > 2 * ALPHA
    assert part([each.superiority(-1).p for each in found]) <= 0.05


# -- interim looks


def at_looks(d: Outcomes, looks: Sequence[int], bound: float, sign: int = 1) -> list[bool]:
    """Whether each look would reject, at its own level."""
    levels = plan(looks, ALPHA).levels
    return [decides(d[:n], bound, sign) <= level for n, level in zip(looks, levels, strict=True)]


def alone_at_looks(d: Outcomes, looks: Sequence[int], bound: float) -> list[bool]:
    levels = plan(looks, ALPHA).levels
    return [seeds_alone_p(crossed(d[:n]), bound) <= level for n, level in zip(looks, levels, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("own_splits", [False, True])
@pytest.mark.parametrize(("level", "image_sd"), [(0.8, 0.5), (2.0, 0.0), (2.0, 0.5), (3.0, 0.5)])
@pytest.mark.parametrize("most", [8, 20])
def test_alpha_holds_over_all_looks(most: int, level: float, image_sd: float, own_splits: bool) -> None:
    """A claim on its bound is shown at none of the looks in 97.5 % of runs; nor its reverse."""
    rng, looks = np.random.default_rng(most), planned_looks(most)
    for bound in (-1.0, 0.0):
        drawn = (
            runs_of_own_splits(rng, RUNS, most, bound, level, image_sd)
            if own_splits
            else runs(rng, RUNS, most, 360, bound, level, image_sd)
        )
        found = [(any(at_looks(d, looks, bound)), any(at_looks(d, looks, bound, -1))) for d in drawn]
        shown, refuted = np.mean(found, axis=0)
        assert max(shown, refuted) <= MOST


def test_looks_hold_alpha_over_seeds_and_images_and_seeds_alone_do_not() -> None:
    looks = planned_looks(8)
    drawn = list(runs(np.random.default_rng(1), 200, 8, 360, -1.0, 2.0, 0.5))
    assert np.mean([any(alone_at_looks(d, looks, -1.0)) for d in drawn]) > 3 * ALPHA
    assert np.mean([any(at_looks(d, looks, -1.0)) for d in drawn]) <= 0.05
