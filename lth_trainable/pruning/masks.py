"""Turns scores and a sparsity into an exact mask, always on the CPU, so that masks are equal on every device.

Counts are exact: zeros = floor(n s + 1/2) with `s` a rational. Weights with equal scores are removed in the order of
their index, lowest first (row-major, layers in the order of the model). NaN scores are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from lth_trainable.errors import UserError
from lth_trainable.pruning.granularity import group_scores

CONTEXTS = ("local", "global", "output_row")
_SMALL = 1 << 16  # up to this many scores, drawing a sample does not pay

Scores = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def count_zeros(n: int, sparsity: Fraction) -> int:
    """Number of zeros among `n` weights at `sparsity` (a fraction): floor(n s + 1/2), exact."""
    return math.floor(n * sparsity + Fraction(1, 2))


def prune(
    scores: Mapping[str, Scores],
    sparsity: Fraction | Mapping[str, Fraction],
    *,
    axes: Mapping[str, tuple[int, ...]] | None = None,
    context: str = "local",
    previous: Mapping[str, Mask] | None = None,
    regrow: bool = False,
    output_axes: Mapping[str, int] | None = None,
) -> dict[str, Mask]:
    """Boolean masks (True: kept) with the shapes of the scores, by layer name.

    scores: by layer; the highest are kept. sparsity: one fraction, or one by layer (not in the global context). axes:
    by layer, the axes that are averaged into groups (`granularity.group_axes`); None prunes single weights. context:
    which scores are ranked together: those of a layer ("local"), of all layers ("global"), or of an output row, which
    is all weights of one output channel or unit ("output_row"). output_axes: by layer, the axis of the outputs, for
    that context; None: the first. previous: the masks so far. They only shrink: removed weights stay removed, even if
    the target is below the sparsity of `previous`. regrow: if the target is below it, masks grow instead: kept weights
    stay and the best of the removed ones return. A layer without weights gets an empty mask.
    """
    over = {name: axes[name] if axes else () for name in scores}
    ranked = {name: _rank(name, layer, over[name]) for name, layer in scores.items() if layer.size}
    kept = {name: previous[name].any(axis=over[name], keepdims=True).ravel() for name in ranked} if previous else None
    flat: dict[str, Mask] = {}
    if context == "global":
        if not isinstance(sparsity, Fraction):
            raise UserError("a target for each layer needs the local context")
        sizes = [scores[name].size // r.size for name, r in ranked.items()]
        found = _select(list(ranked.values()), sizes, sparsity, list(kept.values()) if kept else None, regrow)
        flat = dict(zip(ranked, found, strict=True))
    elif context == "output_row":
        wanted = {name: sparsity if isinstance(sparsity, Fraction) else sparsity[name] for name in ranked}
        for name, r in ranked.items():
            shape = [1 if axis in over[name] else n for axis, n in enumerate(scores[name].shape)]
            axis, before = (output_axes or {}).get(name, 0), None if kept is None else kept[name].reshape(shape)
            flat[name] = _select_in_rows(r.reshape(shape), axis, wanted[name], before, regrow).ravel()
    else:
        wanted = {name: sparsity if isinstance(sparsity, Fraction) else sparsity[name] for name in ranked}
        for name, r in ranked.items():
            flat[name] = _select([r], [1], wanted[name], [kept[name]] if kept else None, regrow)[0]
    masks = {name: _spread(flat.get(name), layer.shape, over[name]) for name, layer in scores.items()}
    if previous and not regrow:
        for name in flat:
            if over[name]:  # an earlier mask of finer granularity may have removed part of a group
                masks[name] &= previous[name]
    return masks


def keep_highest(scores: Scores, n_zeros: int) -> Mask:
    """Mask of a flat score vector that is False for exactly the `n_zeros` lowest scores, ties by lowest index."""
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
    """Pack a mask into bits: row-major, the first element in the highest bit, the last byte padded with zeros."""
    return np.packbits(mask.ravel())


def unpack(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """The mask of this shape that `pack` packed. Raises ValueError if it is not of this shape."""
    count = math.prod(shape)
    if packed.size != -(-count // 8):  # numpy itself adds zeros
        raise ValueError(f"found a mask of {packed.size} bytes; expected {-(-count // 8)} for the shape {list(shape)}")
    return np.unpackbits(packed, count=count).view(bool).reshape(shape)  # of bytes that are 0 or 1


def _rank(name: str, scores: Scores, axes: tuple[int, ...]) -> Scores:
    """Group scores, flat and row-major for every memory format, so that sums and ties are always the same."""
    grouped = group_scores(np.ascontiguousarray(scores), axes).ravel()
    if np.isnan(grouped.max()):  # the maximum is NaN if any element is
        raise UserError(f"{name}: found NaN among the scores; expected numbers; the weights have probably diverged")
    return grouped


def _select(
    layers: Sequence[Scores], sizes: Sequence[int], sparsity: Fraction, kept: Sequence[Mask] | None, regrow: bool
) -> list[Mask]:
    """Flat masks of layers that are ranked together, within the bounds of an earlier mask.

    layers: flat scores of each layer. sizes: weights in one group of each layer. If they differ, groups are removed
    until the number of removed weights is nearest to `sparsity`. kept: the earlier mask. What it decided is not ranked
    again, so even infinite scores cannot undo it.
    """
    if len(set(sizes)) <= 1:  # groups of one size can be counted exactly
        sizes = [1] * len(layers)
    n_zeros = count_zeros(sum(layer.size * size for layer, size in zip(layers, sizes, strict=True)), sparsity)
    if kept is None:
        return _remove(layers, sizes, n_zeros)
    removed = sum(int(k.size - np.count_nonzero(k)) * size for k, size in zip(kept, sizes, strict=True))
    grows = regrow and n_zeros < removed
    undecided = [~k if grows else k for k in kept]
    candidates = [layer[u] for layer, u in zip(layers, undecided, strict=True)]
    found = _remove(candidates, sizes, n_zeros if grows else max(0, n_zeros - removed))
    masks = [k.copy() for k in kept]
    for mask, u, f in zip(masks, undecided, found, strict=True):
        mask[u] = f
    return masks


def _select_in_rows(scores: Scores, axis: int, sparsity: Fraction, kept: Mask | None, regrow: bool) -> Mask:
    """The mask of a layer whose rows are each ranked alone. The layer has as many zeros as if it were ranked whole.

    axis: of the rows. Rows have equal counts; where they do not divide, the first rows have one zero more. If a row has
    only one score, there is nothing to rank within it, and the layer is ranked as a whole.
    """
    rows = np.moveaxis(scores, axis, 0)
    shape, n_zeros = rows.shape, count_zeros(scores.size, sparsity)
    n_rows = 1 if scores.size == shape[0] else shape[0]
    flat = rows.reshape(n_rows, -1)
    before = np.ones(flat.shape, bool) if kept is None else np.moveaxis(kept, axis, 0).reshape(n_rows, -1)
    removed = np.count_nonzero(~before, axis=1)
    each, grows = n_zeros // n_rows, regrow and n_zeros < removed.sum()
    zeros = np.minimum(removed, each) if grows else np.maximum(removed, each)
    may_have_more = np.flatnonzero(removed > each if grows else removed <= each)
    if each < flat.shape[1]:
        zeros[may_have_more[: max(0, n_zeros - int(zeros.sum()))]] += 1
    order = np.lexsort((flat, before), axis=1)  # what is removed already comes first; ties by lowest index
    mask = np.empty(flat.shape, bool)
    np.put_along_axis(mask, order, np.arange(flat.shape[1]) >= zeros[:, None], axis=1)
    return np.ascontiguousarray(np.moveaxis(mask.reshape(shape), 0, axis))


def _remove(layers: Sequence[Scores], sizes: Sequence[int], n_zeros: int) -> list[Mask]:
    """Remove the lowest groups until `n_zeros` weights are removed, or the nearest number that groups allow."""
    if set(sizes) <= {1}:
        return _keep_highest(layers, n_zeros)
    order = np.argsort(np.concatenate(layers), kind="stable")
    each = np.repeat(sizes, [layer.size for layer in layers])[order]
    removed = np.concatenate([[0], np.cumsum(each)])
    mask = np.ones(order.size, bool)
    mask[order[: int(np.argmin(np.abs(removed - n_zeros)))]] = False
    return _cut(mask, [layer.size for layer in layers])


def _keep_highest(layers: Sequence[Scores], n_zeros: int) -> list[Mask]:
    """`keep_highest` of the concatenated layers, without concatenating them if they are large.

    A sample brackets the threshold, and only the scores within the bracket are ranked. If the bracket misses the
    threshold, all scores are ranked.
    """
    n = sum(layer.size for layer in layers)
    if not layers:
        return []
    if n > _SMALL and 0 < n_zeros < n:
        low, high = _bracket(layers, n, n_zeros)
        masks = [layer > high for layer in layers]
        within = [_between(layer, low, mask) for layer, mask in zip(layers, masks, strict=True)]
        counts = [index.size for index in within]
        n_below = n - sum(counts) - sum(int(np.count_nonzero(mask)) for mask in masks)
        if n_below <= n_zeros <= n_below + sum(counts):
            undecided = np.concatenate([layer[index] for layer, index in zip(layers, within, strict=True)])
            found = _cut(keep_highest(undecided, n_zeros - n_below), counts)
            for mask, index, f in zip(masks, within, found, strict=True):
                mask[index] = f
            return masks
    whole = layers[0] if len(layers) == 1 else np.concatenate(layers)
    return _cut(keep_highest(whole, n_zeros), [layer.size for layer in layers])


def _between(layer: Scores, low: Any, above: Mask) -> npt.NDArray[np.intp]:
    """Indices of the scores that are at least `low` and not `above`."""
    within = layer >= low
    within ^= above
    return np.flatnonzero(within)


def _bracket(layers: Sequence[Scores], n: int, n_zeros: int) -> tuple[Any, Any]:
    """Two scores that bracket the threshold, by four standard errors of a sample.

    With about (3 n)^(2/3) samples, drawing and sorting them costs as much as ranking the scores within the bracket.
    """
    stride = max(1, round(n / (3 * n) ** (2 / 3))) | 1  # odd, so that it does not align with the shape of a layer
    sample = np.concatenate([layer[::stride] for layer in layers])
    share = n_zeros / n
    middle, margin = share * sample.size, 4 * math.sqrt(share * (1 - share) * sample.size) + 4
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    sample.sort()  # faster than partitioning at two indices
    return sample[first] if first >= 0 else -np.inf, sample[last] if last < sample.size else np.inf


def _cut(mask: Mask, sizes: Sequence[int]) -> list[Mask]:
    return np.split(mask, np.cumsum(sizes)[:-1])


def _spread(mask: Mask | None, shape: tuple[int, ...], axes: tuple[int, ...]) -> Mask:
    """A flat mask of groups as a mask of weights, in its own memory. mask: None for a layer without weights."""
    if mask is None:
        return np.ones(shape, bool)
    grouped = mask.reshape([1 if axis in axes else n for axis, n in enumerate(shape)])
    return grouped if grouped.shape == shape else np.array(np.broadcast_to(grouped, shape))
