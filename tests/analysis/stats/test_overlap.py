"""Overlap of masks against scipy's hypergeometric distribution and simulated masks; signs by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats.overlap import Mask, overlap, sign_agreement
from lth_trainable.errors import UserError

SHAPES = {"conv": (4, 3, 3, 3), "fc": (20, 15), "output": (10, 4)}
KEPT_A = {"conv": 60, "fc": 75, "output": 30}
KEPT_B = {"conv": 25, "fc": 120, "output": 12}


def random_mask(rng: np.random.Generator, kept: dict[str, int]) -> dict[str, Mask]:
    return {name: (rng.permutation(math.prod(s)) < kept[name]).reshape(s) for name, s in SHAPES.items()}


def masks(*rows: str) -> dict[str, Mask]:
    return {f"layer{i}": np.array([c == "1" for c in row], bool) for i, row in enumerate(rows)}


def test_counts_and_levels_by_hand() -> None:
    found = overlap(masks("11110000", "1100"), masks("11001100", "0110"))
    first, second = found.layers["layer0"], found.layers["layer1"]
    assert (first.n, first.kept_a, first.kept_b, first.both, first.expected) == (8, 4, 4, 2, 2.0)
    assert (first.iou, first.chance_iou, first.z) == (2 / 6, 2 / 6, 0.0)
    assert (second.iou, second.chance_iou) == (1 / 3, 1 / 3)
    assert first.variance == pytest.approx(4 * 4 * 4 * 4 / (64 * 7), rel=1e-15)
    assert (found.overall.n, found.overall.both, found.overall.iou) == (12, 3, 3 / 9)
    assert not found.overall.nested


def test_the_chance_level_is_the_published_sum_over_layers() -> None:
    """sum n p q / sum n (p + q - p q), and not the mean of the layers' levels nor that of the pooled densities."""
    found = overlap(random_mask(np.random.default_rng(0), KEPT_A), random_mask(np.random.default_rng(1), KEPT_B))
    n = np.array([math.prod(shape) for shape in SHAPES.values()])
    p, q = (np.array(list(kept.values())) / n for kept in (KEPT_A, KEPT_B))
    assert found.overall.chance_iou == pytest.approx(np.sum(n * p * q) / np.sum(n * (p + q - p * q)), rel=1e-14)
    for layer, level in zip(found.layers.values(), p * q / (p + q - p * q), strict=True):
        assert layer.chance_iou == pytest.approx(level, rel=1e-14)


@pytest.mark.parametrize(("n", "a", "b"), [(8, 4, 4), (108, 60, 25), (40, 1, 39), (5, 5, 2), (1, 1, 0), (3, 0, 2)])
def test_moments_are_scipys_hypergeometric(n: int, a: int, b: int) -> None:
    layer = overlap({"w": np.arange(n) < a}, {"w": np.arange(n)[::-1] < b}).layers["w"]
    both = np.arange(min(a, b) + 1)
    chance = scipy_stats.hypergeom(n, a, b).pmf(both)
    assert layer.expected == pytest.approx(np.sum(chance * both), rel=1e-12)
    assert layer.variance == pytest.approx(np.sum(chance * (both - layer.expected) ** 2), rel=1e-12, abs=1e-12)


def test_moments_are_exact_for_layers_of_any_size() -> None:
    """The product of four counts of 25 million weights is beyond 64 bits."""
    n = 25_000_000
    a, b = np.zeros(n, bool), np.zeros(n, bool)
    a[: n // 2] = True
    b[n // 4 : 3 * n // 4] = True
    layer = overlap({"w": a}, {"w": b}).overall
    assert layer.variance == pytest.approx(n / 16, rel=1e-6)
    assert layer.z == 0.0


def test_z_of_random_masks_is_standard() -> None:
    """Of 2000 pairs of random masks: mean 0, variance 1, and the mean IoU at its chance level, to 4 standard errors."""
    rng = np.random.default_rng(7)
    found = [overlap(random_mask(rng, KEPT_A), random_mask(rng, KEPT_B)).overall for _ in range(2000)]
    z, iou = np.array([f.z for f in found]), np.array([f.iou for f in found])
    error = 4 / math.sqrt(len(z))
    assert abs(z.mean()) < error
    assert abs(z.var() - 1) < error * math.sqrt(2)
    level = found[0].chance_iou
    assert level is not None
    bias = found[0].variance / found[0].expected ** 2  # of a ratio, to second order: not more than this part of it
    assert abs(iou.mean() - level) < error * iou.std() + bias * level


def test_common_structure_shows() -> None:
    rng = np.random.default_rng(8)
    a, b = random_mask(rng, KEPT_A), random_mask(rng, KEPT_B)
    b["fc"][:10] |= a["fc"][:10]
    found = overlap(a, b)
    assert found.overall.z is not None and found.overall.z > 3
    assert found.overall.iou is not None and found.overall.chance_iou is not None
    assert found.overall.iou > found.overall.chance_iou


def test_nested_masks_are_flagged_and_have_no_z() -> None:
    rng = np.random.default_rng(9)
    early = random_mask(rng, KEPT_A)
    late = {name: mask & (rng.random(mask.shape) < 0.5) for name, mask in early.items()}
    for found in (overlap(early, late), overlap(late, early), overlap(early, early)):
        assert all(layer.nested and layer.z is None for layer in (*found.layers.values(), found.overall))
        assert found.overall.iou is not None
    assert overlap(early, early).overall.iou == 1.0


def test_one_full_layer_makes_nothing_nested() -> None:
    found = overlap(masks("1111", "1100"), masks("1010", "0110"))
    assert not found.overall.nested
    assert found.layers["layer0"].z is None  # a full layer has no choice
    assert found.overall.z == found.layers["layer1"].z == 0.0
    assert overlap(masks("1100", "0010"), masks("1000", "0110")).overall.nested is False  # inside, each the other way


def test_empty_masks_have_no_iou() -> None:
    found = overlap(masks("000", ""), masks("000", ""))
    assert (found.overall.iou, found.overall.chance_iou, found.overall.z) == (None, None, None)
    assert overlap({}, {}).overall.n == 0


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="layers: found"):
        overlap(masks("1"), masks("1", "0"))
    with pytest.raises(UserError, match="shape of layer0"):
        overlap(masks("10"), masks("100"))
    with pytest.raises(UserError, match="mask of w: found 'float32'"):
        overlap({"w": np.ones(3, np.float32)}, {"w": np.ones(3, bool)})  # type: ignore[dict-item]


def test_signs_by_hand_with_zeros_apart() -> None:
    a = {"w": np.array([1.0, -2.0, 3.0, 0.0, -0.0, 5.0, -1.0, 9.0]), "v": np.array([[-1.0, 1.0]])}
    b = {"w": np.array([2.0, -1.0, -3.0, 1.0, -0.0, 0.0, -1.0, -9.0]), "v": np.array([[1.0, -1.0]])}
    mask = {"w": np.array([1, 1, 1, 1, 1, 1, 1, 0], bool), "v": np.array([[True, False]])}
    found = sign_agreement(a, b, mask)
    w = found.layers["w"]
    assert (w.agree, w.disagree, w.zero, w.fraction) == (3, 1, 3, 0.75)
    assert (found.overall.agree, found.overall.disagree, found.overall.zero, found.overall.fraction) == (3, 2, 3, 0.6)


def test_signs_of_independent_weights_agree_by_half() -> None:
    rng = np.random.default_rng(10)
    a, b = ({"w": rng.normal(size=20_000)} for _ in range(2))
    fraction = sign_agreement(a, b, {"w": rng.random(20_000) < 0.5}).overall.fraction
    assert fraction is not None and abs(fraction - 0.5) < 4 * 0.5 / math.sqrt(9_500)
    assert sign_agreement(a, a, {"w": np.ones(20_000, bool)}).overall.fraction == 1.0


def test_signs_without_places_or_with_nan() -> None:
    nan = {"w": np.array([math.nan, 1.0])}
    one = {"w": np.array([1.0, 1.0])}
    assert sign_agreement(nan, one, {"w": np.array([False, False])}).overall.fraction is None
    assert sign_agreement(nan, one, {"w": np.array([False, True])}).overall.fraction == 1.0
    with pytest.raises(UserError, match="w: NaN among the kept"):
        sign_agreement(nan, one, {"w": np.array([True, True])})
    with pytest.raises(UserError, match="shape of w"):
        sign_agreement(one, one, {"w": np.array([True])})
