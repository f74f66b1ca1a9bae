"""Scores and a count -> an exact mask. One code path, on the CPU, so that masks are the same on every device.

Counts are exact: zeros = floor(n s + 1/2) with `s` a rational. Equal scores are removed in the order of their index,
lowest first (row-major, layers in the order of the model). NaN scores are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from lth_trainable.errors import UserError
from lth_trainable.granularity import group_scores

CONTEXTS = ("local", "global")

Scores = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def count_zeros(n: int, sparsity: Fraction) -> int:
    """Zeros among `n` at `sparsity` (a fraction): floor(n s + 1/2), exact."""
    return math.floor(n * sparsity + Fraction(1, 2))


def prune(
    scores: Mapping[str, Scores],
    sparsity: Fraction | Mapping[str, Fraction],
    *,
    axes: Mapping[str, tuple[int, ...]] | None = None,
    context: str = "local",
    previous: Mapping[str, Mask] | None = None,
    growing: bool = False,
) -> dict[str, Mask]:
    """Boolean masks (True: kept), shaped as the scores, by layer name.

    scores: per layer, higher is kept. sparsity: one fraction, or one per layer (local only). axes: per layer, those
    averaged into groups (`granularity.group_axes`); None prunes single weights. previous: masks that only shrink: what
    they removed stays removed. With `growing` they only grow: what they kept stays, and the best of the rest returns.
    """
    ranked, shapes = {}, {}
    for name, layer in scores.items():
        over = axes[name] if axes else ()
        grouped = group_scores(layer, over)
        if np.isnan(grouped.sum(dtype=np.float64)) and np.isnan(grouped).any():
            raise UserError(f"{name}: NaN among the scores; the weights have diverged, so no mask can be ranked")
        kept = None if previous is None else previous[name][_corner(over, layer.ndim)]
        ranked[name] = _bound(grouped, kept, growing).ravel()
        shapes[name] = grouped.shape
    if context == "global":
        if not isinstance(sparsity, Fraction):
            raise UserError("a target for each layer goes with the local context only")
        flat = _global(ranked, {name: scores[name].size // ranked[name].size for name in ranked}, sparsity)
    else:
        wanted = {name: sparsity if isinstance(sparsity, Fraction) else sparsity[name] for name in ranked}
        flat = {
            name: keep_highest(r, max(count_zeros(r.size, wanted[name]), _removed(r))) for name, r in ranked.items()
        }
    return {name: _spread(mask.reshape(shapes[name]), scores[name].shape) for name, mask in flat.items()}


def keep_highest(scores: Scores, n_zeros: int) -> Mask:
    """Mask of a flat score vector with exactly `n_zeros` False: the lowest scores, ties by index, lowest first."""
    if n_zeros <= 0:
        return np.ones(scores.shape, bool)
    if n_zeros >= scores.size:
        return np.zeros(scores.shape, bool)
    threshold = np.partition(scores, n_zeros - 1)[n_zeros - 1]
    mask = scores > threshold
    surplus = scores.size - n_zeros - int(np.count_nonzero(mask))
    if surplus:
        ties = np.flatnonzero(scores == threshold)
        mask[ties[ties.size - surplus :]] = True
    return mask


def pack(mask: Mask) -> npt.NDArray[np.uint8]:
    """Eight mask elements a byte, row-major, the first element in the highest bit; the tail is padded with zeros."""
    return np.packbits(mask.ravel())


def unpack(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """The mask of `pack`, in its shape."""
    return np.unpackbits(packed, count=math.prod(shape)).astype(bool).reshape(shape)


def _global(ranked: Mapping[str, Scores], group_size: Mapping[str, int], sparsity: Fraction) -> dict[str, Mask]:
    """All layers ranked together by group score, removed until the nearest to `sparsity` of the *weights* is gone."""
    together = np.concatenate(list(ranked.values()))
    sizes = np.concatenate([np.full(r.size, group_size[name]) for name, r in ranked.items()])
    wanted = count_zeros(int(sizes.sum()), sparsity)
    if sizes.min() == sizes.max():
        mask = keep_highest(together, max(count_zeros(together.size, sparsity), _removed(together)))
    else:
        order = np.argsort(together, kind="stable")
        removed = np.concatenate([[0], np.cumsum(sizes[order])])
        mask = np.ones(together.size, bool)
        mask[order[: max(int(np.argmin(np.abs(removed - wanted))), _removed(together))]] = False
    ends = np.cumsum([r.size for r in ranked.values()])
    return dict(zip(ranked, np.split(mask, ends[:-1]), strict=True))


def _removed(ranked: Scores) -> int:
    """Groups that an earlier mask has removed: a smaller target brings none of them back."""
    return int(np.count_nonzero(ranked == -np.inf))


def _spread(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask of groups as a mask of weights, in memory of its own."""
    return mask if mask.shape == shape else np.array(np.broadcast_to(mask, shape))


def _corner(axes: tuple[int, ...], n_dims: int) -> tuple[slice, ...]:
    """One element of each group along the averaged axes: within a group a mask is constant."""
    return tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(n_dims))


def _bound(scores: Scores, kept: Mask | None, growing: bool) -> Scores:
    """Scores in which what is removed ranks below all else; with `growing`, what is kept ranks above all else."""
    if kept is None:
        return scores
    bound = np.where(kept, np.inf, scores) if growing else np.where(kept, scores, -np.inf)
    return bound.astype(scores.dtype, copy=False)
