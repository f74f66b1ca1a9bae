"""Properties of masks, granularities and schedules, over whatever hypothesis thinks of."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from lth_trainable.errors import UserError
from lth_trainable.pruning import masks as masks_module
from lth_trainable.pruning.criteria import CRITERIA, large_final
from lth_trainable.pruning.granularity import GRANULARITIES, group_axes
from lth_trainable.pruning.layers import PRUNABLE, prunable_layers
from lth_trainable.pruning.masks import count_zeros, keep_highest, pack, prune, unpack
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.pruning.schedules import SCHEDULES, Prune, Schedule, sched_iterative

settings.register_profile("house", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("house")

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
SPARSITIES = st.fractions(0, 1, max_denominator=1000)
INFINITE = st.floats(allow_nan=False, width=32)
TIED = st.sampled_from([0.0, 1.0, 2.0])
ELEMENTS = st.one_of(INFINITE, TIED)


def arrays(shape: Any = SHAPES, elements: Any = ELEMENTS) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, shape, elements=elements)


LAYERS = st.dictionaries(st.sampled_from("abcd"), arrays(), min_size=1)


def reference(scores: np.ndarray, n_zeros: int) -> np.ndarray:
    """The definition: a stable sort, the lowest go."""
    mask = np.ones(scores.size, bool)
    mask[np.argsort(scores.ravel(), kind="stable")[:n_zeros]] = False
    return mask


# -- exact -----------------------------------------------------------------------------------------------------------


@given(scores=arrays(st.integers(0, 60)), sparsity=SPARSITIES)
@example(scores=np.array([np.inf, -np.inf, np.inf], np.float32), sparsity=Fraction(1, 2))
@example(scores=np.zeros(0, np.float32), sparsity=Fraction(1, 2))
@example(scores=np.zeros(1, np.float32), sparsity=Fraction(1, 2))
@example(scores=np.array([0.0, -0.0], np.float32), sparsity=Fraction(1, 2))
def test_the_lowest_go_as_in_a_stable_sort(scores: np.ndarray, sparsity: Fraction) -> None:
    n_zeros = count_zeros(scores.size, sparsity)
    assert (keep_highest(scores, n_zeros) == reference(scores, n_zeros)).all()


@given(layers=LAYERS, sparsity=SPARSITIES)
def test_local_masks_are_exact_layer_by_layer(layers: dict[str, np.ndarray], sparsity: Fraction) -> None:
    masks = prune(layers, sparsity)
    assert list(masks) == list(layers)
    for name, mask in masks.items():
        assert mask.shape == layers[name].shape and mask.dtype == bool
        assert (mask.ravel() == reference(layers[name], count_zeros(mask.size, sparsity))).all()


@given(layers=LAYERS, sparsity=SPARSITIES)
@example(layers={"a": np.zeros((0, 3), np.float32)}, sparsity=Fraction(1, 2))
@example(layers={"a": np.zeros((0, 3), np.float32), "b": np.ones(1, np.float32)}, sparsity=Fraction(1, 2))
def test_global_masks_are_exact_in_all(layers: dict[str, np.ndarray], sparsity: Fraction) -> None:
    masks = prune(layers, sparsity, context="global")
    together = np.concatenate([layer.ravel() for layer in layers.values()])
    found = np.concatenate([masks[name].ravel() for name in layers])
    assert (found == reference(together, count_zeros(together.size, sparsity))).all()


@given(
    data=st.data(), n=st.integers(1, 400), sparsity=SPARSITIES, parts=st.integers(1, 4), distinct=st.integers(1, 500)
)
def test_the_bracket_of_a_sample_changes_no_mask(
    data: st.DataObject, n: int, sparsity: Fraction, parts: int, distinct: int
) -> None:
    """Small samples mislead often; the mask is that of a full sort all the same."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    scores = np.random.default_rng(seed).integers(0, distinct, n).astype(np.float32)
    if data.draw(st.booleans()):
        scores.sort()
    layers = {str(i): part for i, part in enumerate(np.array_split(scores, parts))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "_SMALL", data.draw(st.integers(1, 40)))
        masks = prune(layers, sparsity, context="global")
    found = np.concatenate([masks[name] for name in layers])
    assert (found == reference(scores, count_zeros(n, sparsity))).all()


def test_a_large_layer_agrees_with_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    for scores in (
        rng.standard_normal(300_001, dtype=np.float32), np.repeat(rng.random(30, dtype=np.float32), 10_000),
        np.where(rng.random(200_000) < 0.9, 0, rng.random(200_000)).astype(np.float32), np.zeros(200_000, np.float32),
    ):  # fmt: skip
        for sparsity in (Fraction(1, 10**6), Fraction(1, 3), Fraction(1, 2), Fraction(999_999, 10**6)):
            expected = reference(scores, count_zeros(scores.size, sparsity))
            assert (prune({"w": scores}, sparsity)["w"] == expected).all()


@given(scores=arrays(elements=st.floats(width=32)), sparsity=SPARSITIES, context=st.sampled_from(["local", "global"]))
def test_nan_is_refused_and_nothing_else_is(scores: np.ndarray, sparsity: Fraction, context: str) -> None:
    if np.isnan(scores).any():
        with pytest.raises(UserError, match="w: found NaN"):
            prune({"w": scores}, sparsity, context=context)
    else:
        prune({"w": scores}, sparsity, context=context)


# -- shrinking, growing, going on ------------------------------------------------------------------------------------


@st.composite
def granular(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Layers of one or several kinds with the axes of a granularity that they all have; some are transposed."""
    granularity = draw(st.sampled_from(sorted(GRANULARITIES)))
    kinds = [n for n in (2, 3, 4, 5) if _has(granularity, n)]
    layers, axes = {}, {}
    for index in range(draw(st.integers(1, 3))):
        n_dims = draw(st.sampled_from(kinds))
        name = f"layer{index}"
        layers[name] = draw(arrays(hnp.array_shapes(min_dims=n_dims, max_dims=n_dims, min_side=0, max_side=3)))
        axes[name] = group_axes(granularity, n_dims, transposed=n_dims > 2 and draw(st.booleans()))
    return layers, axes


def _has(granularity: str, n_dims: int) -> bool:
    try:
        group_axes(granularity, n_dims)
    except UserError:
        return False
    return True


def _rankable(layers: dict[str, np.ndarray]) -> bool:
    """Infinities of both signs have no mean; NaN is refused, which is another test."""
    return not any(np.isposinf(layer).any() and np.isneginf(layer).any() for layer in layers.values())


@given(
    grouped=granular(), other=st.randoms(use_true_random=False), first=SPARSITIES, second=SPARSITIES,
    context=st.sampled_from(["local", "global"]), regrow=st.booleans(),
)  # fmt: skip
def test_masks_shrink_or_grow_and_never_both(
    grouped: Any, other: Any, first: Fraction, second: Fraction, context: str, regrow: bool
) -> None:
    layers, axes = grouped
    assume(_rankable(layers))
    before = prune(layers, first, axes=axes, context=context)
    shuffled = {}
    for name, layer in layers.items():
        values = layer.ravel().tolist()
        other.shuffle(values)
        shuffled[name] = np.array(values, np.float32).reshape(layer.shape)
    after = prune(shuffled, second, axes=axes, context=context, previous=before, regrow=regrow)
    lost = any((before[name] & ~after[name]).any() for name in layers)
    gained = any((after[name] & ~before[name]).any() for name in layers)
    assert not gained or regrow
    assert not (lost and gained) or context == "local"
    if second >= first:
        assert not gained
    elif not regrow:
        assert not lost
    for name, mask in after.items():
        if context == "local" and mask.size and (regrow or second >= first):
            kept = mask.any(axis=axes[name], keepdims=True)
            assert np.count_nonzero(~kept) == count_zeros(kept.size, second)
            assert (mask == np.broadcast_to(kept, mask.shape)).all()


@given(grouped=granular(), sparsity=SPARSITIES, context=st.sampled_from(["local", "global"]))
def test_pruning_again_to_the_same_sparsity_changes_nothing(grouped: Any, sparsity: Fraction, context: str) -> None:
    layers, axes = grouped
    assume(_rankable(layers))
    masks = prune(layers, sparsity, axes=axes, context=context)
    sizes = {math.prod(layer.shape[axis] for axis in axes[name]) for name, layer in layers.items()}
    # Where groups differ in size, another ranking may come nearer to the target.
    reverses = context == "local" or len(sizes) == 1
    ranking = {name: -layer if reverses else layer for name, layer in layers.items()}
    for regrow in (False, True):
        again = prune(ranking, sparsity, axes=axes, context=context, previous=masks, regrow=regrow)
        assert all((again[name] == masks[name]).all() for name in masks)


def test_a_group_of_another_size_does_not_bring_removed_groups_back() -> None:
    """Removed sizes 1, 1, 1 and 10; a target below them all must not let the small ones return."""
    layers = {"big": np.full((1, 10), 3.0, np.float32), "small": np.array([[1.0], [1.5], [2.0], [9.0]], np.float32)}
    axes = {"big": (1,), "small": (1,)}
    before = prune(layers, Fraction(9, 14), axes=axes, context="global")
    assert [int((~before[name]).sum()) for name in layers] == [10, 3]
    after = prune(layers, Fraction(19, 28), axes=axes, context="global", previous=before)
    assert all((after[name] == before[name]).all() for name in layers)


def test_scores_of_minus_infinity_do_not_bring_removed_weights_back() -> None:
    scores = np.array([0.0, 1, 2, 3, 4, 5], np.float32)
    before = prune({"w": scores[::-1].copy()}, Fraction(1, 2))
    lowest = np.full(6, -np.inf, np.float32)
    after = prune({"w": lowest}, Fraction(2, 3), previous=before)["w"]
    assert not (after & ~before["w"]).any() and np.count_nonzero(~after) == 4


def test_a_coarser_mask_keeps_the_holes_of_a_finer_one() -> None:
    scores = np.arange(8, dtype=np.float32).reshape(4, 2)
    finer = np.ones((4, 2), bool)
    finer[3, 0] = finer[2, 1] = False
    mask = prune({"w": scores}, Fraction(1, 4), axes={"w": (1,)}, previous={"w": finer})["w"]
    assert not (mask & ~finer).any() and not mask[0].any() and mask[1].all()


# -- the kinds of layer ----------------------------------------------------------------------------------------------

BUILDERS: dict[str, Any] = {
    "Linear": nn.Linear, "Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d,
    "ConvTranspose1d": nn.ConvTranspose1d, "ConvTranspose2d": nn.ConvTranspose2d,
    "ConvTranspose3d": nn.ConvTranspose3d,
}  # fmt: skip


@settings(max_examples=120)
@given(
    kind=st.sampled_from(sorted(BUILDERS)), granularity=st.sampled_from(sorted(GRANULARITIES)),
    n_in=st.integers(1, 4), n_out=st.integers(1, 4), kernel=st.integers(1, 3), sparsity=SPARSITIES,
    context=st.sampled_from(["local", "global"]),
)  # fmt: skip
def test_every_kind_of_layer_at_every_granularity_it_has(
    kind: str, granularity: str, n_in: int, n_out: int, kernel: int, sparsity: Fraction, context: str
) -> None:
    torch.manual_seed(0)
    module = BUILDERS[kind](n_in, n_out, *([] if kind == "Linear" else [kernel]))
    layers = prunable_layers(nn.Sequential(module), PRUNABLE)
    weight = layers[0].weight
    if not _has(granularity, weight.ndim):
        with pytest.raises(UserError, match=rf"granularity of 0: found '{granularity}'"):
            Pruner(layers, large_final, granularity=granularity)
        return
    pruner = Pruner(layers, large_final, granularity=granularity, context=context)
    axes = pruner.axes["0.weight"]
    magnitudes = weight.detach().abs().double().numpy()
    assume(0 < count_zeros(magnitudes.mean(axis=axes).size, sparsity) < magnitudes.mean(axis=axes).size)
    pruner.prune(sparsity)
    kept = pruner.in_force["0.weight"].any(axis=axes)
    assert np.count_nonzero(~kept) == count_zeros(kept.size, sparsity)
    means = magnitudes.mean(axis=axes)
    assert means[~kept].max() <= means[kept].min() + 1e-12
    assert ((weight.detach() != 0).numpy() == pruner.in_force["0.weight"]).all()


@given(n_in=st.integers(1, 4), n_out=st.integers(1, 4))
def test_filters_of_a_transposed_layer_are_its_outputs(n_in: int, n_out: int) -> None:
    pruner = Pruner(prunable_layers(nn.ConvTranspose2d(n_in, n_out, 3)), large_final, granularity="filter")
    assert pruner.axes["weight"] == (0, 2, 3)
    pruner.prune(Fraction(1, 2)) if n_out > 1 else None
    assert pruner.counts["weight"] % (n_in * 9) == 0


@given(name=st.sampled_from(sorted(set(CRITERIA) - {"wanda"})), sparsity=SPARSITIES, seed=st.integers(0, 99))
def test_every_criterion_is_exact_on_one_weight_and_on_many(name: str, sparsity: Fraction, seed: int) -> None:
    torch.manual_seed(seed)
    assume(count_zeros(1, sparsity) == 0 and 0 < count_zeros(12, sparsity) < 12)
    pruner = Pruner(prunable_layers(nn.Sequential(nn.Linear(1, 1), nn.Linear(4, 3))), CRITERIA[name], seed=seed)
    pruner.prune(sparsity)
    assert [pruner.counts[n] for n in ("0.weight", "1.weight")] == [1, 12 - count_zeros(12, sparsity)]


@given(scores=arrays(elements=INFINITE), sparsity=SPARSITIES, granularity=st.sampled_from(sorted(GRANULARITIES)))
def test_the_memory_format_changes_no_mask(scores: np.ndarray, sparsity: Fraction, granularity: str) -> None:
    assume(scores.ndim > 1 and _has(granularity, scores.ndim) and _rankable({"w": scores}))
    axes = {"w": group_axes(granularity, scores.ndim)}
    one, two = (prune({"w": s}, sparsity, axes=axes)["w"] for s in (scores, np.asfortranarray(scores)))
    assert (one == two).all()


@given(mask=hnp.arrays(bool, SHAPES))
def test_packing_loses_nothing(mask: np.ndarray) -> None:
    assert (unpack(pack(mask), mask.shape) == mask).all()


# -- schedules -------------------------------------------------------------------------------------------------------

WITHIN_FIT = sorted(name for name, rule in SCHEDULES.items() if rule.function)
PARTS = st.integers(0, 100).map(lambda n: n / 100)


def prunes_or_none(schedule: Schedule, n_epochs: int, target: Fraction) -> tuple[Prune, ...] | None:
    """The prune events; None where the epochs do not suffice."""
    try:
        return schedule.prunes(n_epochs, target)
    except UserError:
        return None


@settings(max_examples=200)
@given(name=st.sampled_from(WITHIN_FIT), n_epochs=st.integers(1, 60), target=SPARSITIES, start=PARTS, end=PARTS)
@example(name="linear", n_epochs=1, target=Fraction(1, 2), start=0.0, end=0.0)
@example(name="dsd", n_epochs=1, target=Fraction(1, 2), start=0.0, end=0.5)
@example(name="dsd", n_epochs=4, target=Fraction(1, 2), start=0.9, end=0.95)
@example(name="iterative", n_epochs=20, target=Fraction(1, 2), start=0.25, end=1.0)
def test_a_schedule_prunes_in_order_to_its_target_or_says_why_not(
    name: str, n_epochs: int, target: Fraction, start: float, end: float
) -> None:
    assume(0 < target < 1 and start < 1 and start <= end)
    rule = SCHEDULES[name]
    schedule = Schedule(rule.function, start_pct=start, end_pct=end)  # type: ignore[arg-type]
    events = prunes_or_none(schedule, n_epochs, target)
    if events is None:
        assert rule.stepwise  # a gradual schedule always has room for one prune
        return
    epochs, values = [e.epoch for e in events], [e.sparsity for e in events]
    assert epochs == sorted(set(epochs)) and epochs[0] >= 0 and epochs[-1] < n_epochs
    assert max(values) == target and all(0 <= value <= target for value in values)
    top = values.index(target)
    assert values[:top] == sorted(values[:top]) and values[top:] == sorted(values[top:], reverse=True)
    assert rule.peaks or top == len(values) - 1
    first = math.floor(Fraction(str(start)) * n_epochs)
    assert epochs[0] >= min(first, n_epochs - 1)


@given(n_epochs=st.integers(1, 400), steps=st.integers(1, 10), start=PARTS, target=SPARSITIES)
def test_steps_are_equal_and_on_the_first_boundary_after_their_part(
    n_epochs: int, steps: int, start: float, target: Fraction
) -> None:
    assume(0 < target < 1 and start < 1)
    first = Fraction(str(start)) * n_epochs
    due = [math.ceil(first + i * (n_epochs - first) / steps) for i in range(steps)]
    schedule = Schedule(partial(sched_iterative, n_steps=steps), start_pct=start)
    if len(set(due)) < steps or due[-1] >= n_epochs:
        with pytest.raises(UserError, match="no room"):
            schedule.prunes(n_epochs, target)
        return
    events = schedule.prunes(n_epochs, target)
    assert [e.epoch for e in events] == due
    assert [e.sparsity for e in events] == [target * (i + 1) / steps for i in range(steps)]


@given(name=st.sampled_from(WITHIN_FIT), target=SPARSITIES)
def test_schedule_functions_stay_within_start_and_target(name: str, target: Fraction) -> None:
    values = [SCHEDULES[name].function(Fraction(0), target, Fraction(i, 50)) for i in range(51)]  # type: ignore[misc]
    assert all(-1e-9 <= value <= float(target) + 1e-9 for value in values)
    if not SCHEDULES[name].peaks:
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
