"""Controls as functions of masks and weights: exact counts, by chance alone, repeatable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from torch import nn

from lth_trainable.pruning.controls import (
    CONTROLS,
    Start,
    constant_magnitude,
    draws,
    flipped_signs,
    layerwise_shuffle,
    new_magnitudes,
    random_mask,
    shuffled,
    sign_shuffle,
)
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.granularity import group_axes
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.masks import Mask
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.seeds import generator

SHAPES = {"a": (16, 3, 3, 3), "b": (8, 16, 3, 3), "c": (40, 8, 1, 1)}
KEPT = {"a": 0.5, "b": 0.05, "c": 0.2}  # densities of the ticket
MAKERS = {"random_mask": random_mask, "layerwise_shuffle": layerwise_shuffle}
Make = Callable[..., dict[str, Mask]]


def axes_of(granularity: str) -> dict[str, tuple[int, ...]]:
    return {name: group_axes(granularity, len(shape)) for name, shape in SHAPES.items()}


def ticket(granularity: str = "weight", seed: int = 0) -> dict[str, Mask]:
    """Masks of three layers whose groups are whole, each with its own density."""
    masks = {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        axes = group_axes(granularity, 4)
        grouped = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
        kept = np.arange(math.prod(grouped)) < round(KEPT[name] * math.prod(grouped))
        found = generator(seed, "test", index).permutation(kept).reshape(grouped)
        masks[name] = np.array(np.broadcast_to(found, shape))
    return masks


def counts(masks: Mapping[str, Mask]) -> dict[str, int]:
    return {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}


def equal(a: Mapping[str, Mask], b: Mapping[str, Mask]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("granularity", ["weight", "kernel", "column", "filter"])
@pytest.mark.parametrize("name", MAKERS)
def test_counts_are_the_tickets_and_groups_stay_whole(name: str, granularity: str) -> None:
    masks, axes = ticket(granularity), axes_of(granularity)
    before = {n: mask.copy() for n, mask in masks.items()}
    found = MAKERS[name](masks, axes, draws(0, 3))
    assert equal(masks, before), "the ticket's own masks stay as they are"
    for layer, mask in found.items():
        assert mask.shape == SHAPES[layer] and mask.dtype == bool and mask.flags.writeable
        assert np.array_equal(mask, np.broadcast_to(mask.any(axis=axes[layer], keepdims=True), mask.shape))
    if name == "layerwise_shuffle":
        assert counts(found) == counts(masks)
    elif granularity == "weight":
        assert sum(counts(found).values()) == sum(counts(masks).values())
    else:  # groups of several sizes: no other number of them comes nearer
        largest = max(math.prod(shape[axis] for axis in axes[n]) for n, shape in SHAPES.items())
        assert abs(sum(counts(found).values()) - sum(counts(masks).values())) <= largest / 2
    assert not equal(found, masks)


def test_groups_of_one_size_are_counted_exactly() -> None:
    shapes = {"a": (12, 4, 3, 3), "b": (7, 4, 3, 3)}
    masks = {n: np.broadcast_to(np.arange(s[0]).reshape(-1, 1, 1, 1) < 5, s) for n, s in shapes.items()}
    found = random_mask(masks, dict.fromkeys(shapes, (1, 2, 3)), draws(4, 1))
    assert sum(counts(found).values()) == 10 * 36


def test_a_random_mask_is_drawn_over_all_layers_alike() -> None:
    """Each layer's count is hypergeometric: within five standard deviations, wherever the ticket's weights were."""
    masks = {"a": np.ones((200, 300), bool), "b": np.zeros((300, 200), bool), "c": np.zeros((500,), bool)}
    found = random_mask(masks, dict.fromkeys(masks, ()), draws(0, 1))
    n, k = sum(mask.size for mask in masks.values()), 60_000
    for name, mask in masks.items():
        mean = k * mask.size / n
        sd = math.sqrt(mean * (1 - k / n) * (n - mask.size) / (n - 1))
        assert abs(np.count_nonzero(found[name]) - mean) < 5 * sd, name


def test_every_place_of_a_shuffled_mask_is_as_likely() -> None:
    mask = np.arange(12).reshape(3, 4) < 3
    kept = np.mean([shuffled(mask, generator(seed, "test")) for seed in range(2000)], axis=0)
    assert np.abs(kept - 0.25).max() < 5 * math.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("name", MAKERS)
def test_masks_are_a_function_of_seed_and_level_alone(name: str) -> None:
    masks, axes = ticket(), axes_of("weight")
    make: Make = MAKERS[name]
    found = make(masks, axes, draws(0, 3))
    np.random.seed(5)  # noqa: NPY002
    assert equal(make(masks, axes, draws(0, 3)), found)
    assert equal(make(ticket(seed=1), axes, draws(0, 3)), found), "nor of where the ticket's weights are"
    for other in (draws(1, 3), draws(0, 2)):
        assert all(
            not np.array_equal(a, b) for a, b in zip(make(masks, axes, other).values(), found.values(), strict=True)
        )


def test_layers_that_are_full_or_empty() -> None:
    masks = {"a": np.ones((4, 4), bool), "b": np.zeros((4, 4), bool), "c": np.zeros((0, 3), bool)}
    axes = dict.fromkeys(masks, ())
    assert equal(layerwise_shuffle(masks, axes, draws(0, 1)), masks)
    assert sum(counts(random_mask(masks, axes, draws(0, 1))).values()) == 16
    assert equal(random_mask({"b": masks["b"]}, axes, draws(0, 1)), {"b": masks["b"]})


def test_a_layer_that_chance_empties_is_reported() -> None:
    """One weight of the large layer is kept; drawn over both, the small layer's 4 go to the large one's 4,000."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(50, 80))
    pruner = Pruner(prunable_layers(network), CRITERIA["large_final"])
    pruner.prune({"0.weight": Fraction(0), "1.weight": Fraction(3999, 4000)})
    found = random_mask(pruner.in_force or {}, pruner.axes, draws(0, 1))
    assert counts(found) == {"0.weight": 0, "1.weight": 5}
    with pytest.warns(UserWarning, match="no weight is left in 0 at"):
        pruner.replace_mask(found)
    assert pruner.collapsed == ["0"] and len(pruner.levels) == 1 and pruner.counts_by_level[1:] == [counts(found)]
    assert not network[0].weight.any() and int(network[1].weight.count_nonzero()) <= 5


def test_signs_are_shuffled_among_the_kept_weights() -> None:
    stream = lambda: generator(0, "test")  # noqa: E731
    weights = generator(1, "weights").standard_normal((30, 40)).astype(np.float32)
    mask = generator(2, "mask").random((30, 40)) < 0.3
    weights[0, mask[0]] = 0.0
    before = weights.copy()
    found = sign_shuffle(weights, mask, stream())
    assert np.array_equal(weights, before) and found.dtype == np.float32
    assert np.array_equal(np.abs(found), np.abs(weights)), "magnitudes stay where they are"
    assert np.array_equal(found[~mask], weights[~mask])
    assert np.signbit(found[mask]).sum() == np.signbit(weights[mask]).sum(), "as many are negative"
    moved = np.mean(np.sign(found[mask]) != np.sign(weights[mask]))
    assert 0.3 < moved < 0.6, "about half of the signs are others"
    assert np.array_equal(found, sign_shuffle(weights, mask, stream()))


def test_what_each_control_changes() -> None:
    changes: dict[str, Any] = {
        name: (control.masks is not CONTROLS["reinit"].masks, control.weights is not None, control.starts_over)
        for name, control in CONTROLS.items()
    }  # fmt: skip
    assert changes == {
        "random_mask": (True, False, False), "layerwise_shuffle": (True, False, False), "reinit": (False, False, True),
        "random_sparse": (True, False, True), "sign_shuffle": (False, True, False),
        "sign_flip": (False, True, False), "new_magnitudes": (False, True, False),
        "constant_magnitude": (False, True, False),
    }  # fmt: skip
    assert CONTROLS["random_sparse"].masks is CONTROLS["layerwise_shuffle"].masks


def sign_start(flip_pct: float | None = None) -> Start:
    weights = generator(1, "weights").standard_normal((30, 40)).astype(np.float32)
    mask = generator(2, "mask").random((30, 40)) < 0.3
    new = generator(3, "new").standard_normal((30, 40)).astype(np.float32)
    return Start(
        weights=weights * mask, mask=mask, stream=generator(0, "test"), new=lambda: new, flip_pct=flip_pct
    )  # fmt: skip


@pytest.mark.parametrize("pct", [0.2, 10.0, 50.0, 100.0])
def test_so_many_percent_of_the_kept_signs_are_flipped(pct: float) -> None:
    start = sign_start(pct)
    before, found = start.weights.copy(), flipped_signs(start)
    n = int(start.mask.sum())
    assert np.array_equal(start.weights, before) and np.array_equal(np.abs(found), np.abs(before))
    assert np.count_nonzero(found != before) == int(n * pct / 100 + 0.5) > 0
    assert not found[~start.mask].any() and found.dtype == np.float32


def test_the_ticket_s_signs_with_magnitudes_of_another_initialisation() -> None:
    start = sign_start()
    found = new_magnitudes(start)
    assert np.array_equal(np.signbit(found[start.mask]), np.signbit(start.weights[start.mask]))
    assert np.array_equal(np.abs(found[start.mask]), np.abs(start.new()[start.mask]))
    assert not found[~start.mask].any()


def test_the_ticket_s_signs_with_one_magnitude_a_layer() -> None:
    start = sign_start()
    found = constant_magnitude(start)
    assert np.array_equal(np.sign(found), np.sign(start.weights)) and len(np.unique(np.abs(found[start.mask]))) == 1
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(start.weights), rel=1e-6)
    empty = replace(start, mask=np.zeros_like(start.mask), weights=0 * start.weights)
    assert not constant_magnitude(empty).any(), "a layer without a weight left"
