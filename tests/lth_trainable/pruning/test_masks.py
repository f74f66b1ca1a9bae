from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lth_trainable.errors import UserError
from lth_trainable.pruning.granularity import GRANULARITIES, group_axes
from lth_trainable.pruning.masks import count_zeros, keep_highest, pack, prune, unpack

RNG = np.random.default_rng(0)


def layers(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape, dtype=np.float32) for name, shape in (("a", (6, 3, 3, 3)), ("b", (8, 6, 3, 3)))}


@pytest.mark.parametrize(("n", "sparsity", "zeros"), [
    (9408, Fraction(1, 2), 4704), (9408, Fraction(1, 6), 1568), (10, Fraction(1, 4), 3), (2, Fraction(1, 4), 1),
    (1, Fraction(49, 100), 0), (1, Fraction(1, 2), 1), (0, Fraction(1, 2), 0),
])  # fmt: skip
def test_counts_are_floor_of_n_s_plus_a_half(n: int, sparsity: Fraction, zeros: int) -> None:
    assert count_zeros(n, sparsity) == zeros


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1000])
def test_exactly_so_many_of_the_lowest_go(n: int) -> None:
    scores = RNG.random(n).astype(np.float32)
    for n_zeros in {0, 1, n // 3, n - 1, n}:
        mask = keep_highest(scores, n_zeros)
        assert np.count_nonzero(~mask) == n_zeros
        if 0 < n_zeros < n:
            assert scores[~mask].max() <= scores[mask].min()


def test_ties_go_by_index_lowest_first() -> None:
    assert keep_highest(np.array([1.0, 1, 1, 1]), 2).tolist() == [False, False, True, True]
    assert keep_highest(np.array([2.0, 1, 2, 1, 1]), 2).tolist() == [True, False, True, False, True]
    assert keep_highest(np.zeros(5), 3).tolist() == [False] * 3 + [True] * 2


def test_ties_agree_with_a_stable_sort() -> None:
    for _ in range(200):
        scores = RNG.integers(0, 4, size=RNG.integers(1, 40)).astype(np.float32)
        n_zeros = int(RNG.integers(0, len(scores) + 1))
        expected = np.ones(len(scores), bool)
        expected[np.argsort(scores, kind="stable")[:n_zeros]] = False
        assert (keep_highest(scores, n_zeros) == expected).all()


@pytest.mark.parametrize("context", ["local", "global"])
def test_masks_only_shrink(context: str) -> None:
    before = prune(layers(0), Fraction(3, 10), context=context)
    after = prune(layers(1), Fraction(6, 10), context=context, previous=before)
    total = sum(m.size for m in after.values())
    assert sum(np.count_nonzero(~m) for m in after.values()) == count_zeros(total, Fraction(6, 10))
    for name in before:
        assert not (after[name] & ~before[name]).any()


def test_local_prunes_each_layer_to_the_target_global_all_together() -> None:
    scores = {"small": np.full((10, 10), 0.1, np.float32), "large": np.full((10, 10), 0.9, np.float32)}
    local = prune(scores, Fraction(1, 2))
    assert [np.count_nonzero(m) for m in local.values()] == [50, 50]
    together = prune(scores, Fraction(1, 2), context="global")
    assert [np.count_nonzero(m) for m in together.values()] == [0, 100]


def test_per_layer_targets() -> None:
    masks = prune(layers(), {"a": Fraction(1, 3), "b": Fraction(0)})
    assert np.count_nonzero(~masks["a"]) == 54 and masks["b"].all()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("context", ["local", "global"])
def test_groups_live_and_die_together(granularity: str, context: str) -> None:
    scores = layers()
    axes = dict.fromkeys(scores, group_axes(granularity, 4))
    masks = prune(scores, Fraction(1, 2), axes=axes, context=context)
    for name, mask in masks.items():
        kept = mask.mean(axis=axes[name]) if axes[name] else mask
        assert set(np.unique(kept)) <= {0.0, 1.0}
        if context == "local":
            groups = kept.size
            assert np.count_nonzero(kept == 0) == count_zeros(groups, Fraction(1, 2)), name


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_global_counts_weights_not_groups(granularity: str) -> None:
    scores = layers()
    masks = prune(scores, Fraction(1, 2), axes=dict.fromkeys(scores, group_axes(granularity, 4)), context="global")
    total = sum(s.size for s in scores.values())
    sizes = [s.size // (np.prod([n for i, n in enumerate(s.shape) if i not in group_axes(granularity, 4)]))
             for s in scores.values()]  # fmt: skip
    removed = sum(np.count_nonzero(~m) for m in masks.values())
    assert abs(removed - total / 2) <= max(sizes) / 2


def test_group_scores_are_means_in_float64() -> None:
    big = np.full((2, 4096), 1e8, np.float32)
    big[1, 0] += 8
    masks = prune({"w": big}, Fraction(1, 2), axes={"w": (1,)})
    assert masks["w"][1].all() and not masks["w"][0].any()


def test_nan_scores_are_refused() -> None:
    with pytest.raises(UserError, match=r"fc\.weight: found NaN"):
        prune({"fc.weight": np.array([[1.0, np.nan]], np.float32)}, Fraction(1, 2))


def test_packed_masks_come_back() -> None:
    for shape in [(1,), (7,), (3, 5), (8, 8), (2, 3, 3, 3)]:
        mask = RNG.random(shape) > 0.5
        assert (unpack(pack(mask), shape) == mask).all()
        assert pack(mask).nbytes == -(-mask.size // 8)


def test_a_granularity_without_its_axis_is_refused() -> None:
    with pytest.raises(UserError, match="filter"):
        group_axes("filter", 2)


@pytest.mark.parametrize(("shape", "axis"), [((7, 5), 0), ((4, 3, 2, 2), 0), ((3, 4, 2, 2), 1), ((6, 1), 0), ((9,), 0)])
def test_output_rows_are_ranked_alone(shape: tuple[int, ...], axis: int) -> None:
    """Every row keeps its own best, rows differ by at most one zero, and the layer's count is exact at each level."""
    scores = np.random.default_rng(0).permutation(np.arange(float(np.prod(shape)))).reshape(shape)
    rows = np.moveaxis(scores, axis, 0).reshape(shape[axis], -1)
    mask = None
    for sparsity in (Fraction(1, 3), Fraction(1, 2), Fraction(4, 5), Fraction(97, 100)):
        previous = None if mask is None else {"w": mask}
        mask = prune({"w": scores}, sparsity, context="output_row", previous=previous, output_axes={"w": axis})["w"]
        assert np.count_nonzero(~mask) == count_zeros(scores.size, sparsity)
        assert previous is None or not (mask & ~previous["w"]).any(), "masks only shrink"
        kept = np.moveaxis(mask, axis, 0).reshape(rows.shape)
        if rows.shape[1] == 1:  # nothing to rank within a row: the layer is ranked as a whole
            assert not mask.any() or scores[mask].min() > scores[~mask].max()
            continue
        zeros = np.count_nonzero(~kept, axis=1)
        assert zeros.max() - zeros.min() <= 1
        for row, k in zip(rows, kept, strict=True):
            assert not k.any() or k.all() or row[k].min() > row[~k].max()


def test_output_rows_are_not_the_layer() -> None:
    """A row of small weights loses no more than a row of large ones; in the local context it loses all."""
    scores = {"w": np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])}
    by_row, by_layer = (prune(scores, Fraction(1, 2), context=name)["w"].tolist() for name in ("output_row", "local"))
    assert by_row == [[False, False, True, True]] * 2
    assert by_layer == [[False] * 4, [True] * 4]


def test_output_rows_regrow_their_best() -> None:
    scores = {"w": np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])}
    sparse = prune(scores, Fraction(3, 4), context="output_row")
    grown = prune(scores, Fraction(3, 8), context="output_row", previous=sparse, regrow=True)["w"].tolist()
    assert grown == [[True, True, False, False], [False, True, True, True]]
