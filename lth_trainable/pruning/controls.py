"""Controls: randomised variants of a ticket's mask or start weights, which the ticket must beat. Only numpy.

A control keeps as many weights as its ticket. Functions do not change their arguments. `draw(*where)` is numpy's random
stream at (seed, "control", level, *where), so a control depends on its seed and not on the worker that trains it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lth_trainable.pruning.masks import Mask
from lth_trainable.seeds import generator

Masks = Mapping[str, Mask]
Axes = Mapping[str, tuple[int, ...]]
Weights = npt.NDArray[np.floating[Any]]
Draw = Callable[..., np.random.Generator]


def keep_masks(masks: Masks, axes: Axes, draw: Draw) -> dict[str, Mask]:
    """The masks of the ticket, unchanged."""
    return dict(masks)


def random_mask(masks: Masks, axes: Axes, draw: Draw) -> dict[str, Mask]:
    """Random masks that keep as many weights in total, drawn without replacement over all layers together.

    masks: Boolean by parameter name, True: kept. axes: by parameter name, the axes of a group; whole groups are drawn.
    If all groups have one size, the count is exact; otherwise groups are kept in the drawn order until the count is
    nearest. A layer may become empty, as in any global ranking.
    """
    groups = {name: _groups(mask, axes[name]) for name, mask in masks.items()}
    sizes = {name: masks[name].size // max(1, group.size) for name, group in groups.items()}
    n_kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    order = draw().permutation(sum(group.size for group in groups.values()))
    flat = np.zeros(order.size, bool)
    flat[order[: _how_many(order, groups, sizes, n_kept)]] = True
    parts = np.split(flat, np.cumsum([group.size for group in groups.values()])[:-1])
    return {
        name: _spread(part.reshape(groups[name].shape), masks[name].shape)
        for name, part in zip(groups, parts, strict=True)
    }  # fmt: skip


def layerwise_shuffle(masks: Masks, axes: Axes, draw: Draw) -> dict[str, Mask]:
    """Each layer's mask with its groups in random order, so layer densities are equal (Su et al., arXiv 2009.11094)."""
    return {name: shuffled(mask, draw(index), axes[name]) for index, (name, mask) in enumerate(masks.items())}


def shuffled(mask: Mask, stream: np.random.Generator, axes: tuple[int, ...] = ()) -> Mask:
    """A random mask with the same shape, groups and count."""
    groups = _groups(mask, axes)
    flat = np.zeros(groups.size, bool)
    flat[stream.permutation(groups.size)[: np.count_nonzero(groups)]] = True
    return _spread(flat.reshape(groups.shape), mask.shape)


def sign_shuffle(weights: Weights, mask: Mask, stream: np.random.Generator) -> Weights:
    """A layer's weights with the signs of the kept ones in random order; magnitudes stay in place.

    As many weights are negative as before; only the positions of the signs are lost (Zhou et al., arXiv 1905.01067,
    sec. 4.1: of the initial weights, a supermask needs the signs).
    """
    kept = weights[mask]
    signs = np.where(np.signbit(kept), -1.0, 1.0).astype(kept.dtype)
    found = weights.copy()
    found[mask] = np.copysign(kept, signs[stream.permutation(kept.size)])
    return found


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a control makes the start weights of a layer from.

    weights: the ticket's rewind weights, zero outside the mask. stream: its random stream. new: gives the layer's
    weights in another initialisation. flip_pct: percent of signs to flip; None unless the control flips signs.
    """

    weights: Weights
    mask: Mask
    stream: np.random.Generator
    new: Callable[[], Weights]
    flip_pct: float | None = None


def shuffled_signs(start: Start) -> Weights:
    """`sign_shuffle` of a layer."""
    return sign_shuffle(start.weights, start.mask, start.stream)


def flipped_signs(start: Start) -> Weights:
    """The ticket's weights with other signs for floor(n p / 100 + 1/2) of the n kept ones, drawn at random.

    Shows how much of a ticket is in its signs: Gadhikar & Burkholz (arXiv 2402.19262) perturb the signs of a mask;
    Zhou et al. (arXiv 1905.01067, sec. 4.1) find that a ticket needs its signs more than its magnitudes.
    """
    assert start.flip_pct is not None
    kept = start.weights[start.mask]
    n_flipped = int(np.floor(kept.size * start.flip_pct / 100 + 0.5))
    kept[start.stream.permutation(kept.size)[:n_flipped]] *= -1
    return _with_kept(start, kept)


def new_magnitudes(start: Start) -> Weights:
    """The ticket's signs on the magnitudes of another initialisation (Zhou et al., arXiv 1905.01067, sec. 4.1)."""
    return _with_kept(start, np.copysign(np.abs(start.new()[start.mask]), start.weights[start.mask]))


def constant_magnitude(start: Start) -> Weights:
    """The ticket's signs times one constant a layer: the root mean square of its kept rewind weights.

    Zhou et al. (arXiv 1905.01067, sec. 4.1) use the standard deviation of the layer's initialisation. The root mean
    square keeps the norm of the layer, at a rewind point after the initialisation too.
    """
    kept = start.weights[start.mask]
    constant = np.sqrt(np.mean(np.square(kept, dtype=np.float64))) if kept.size else 0.0
    return _with_kept(start, np.copysign(np.full_like(kept, constant), kept))


def _with_kept(start: Start, kept: Weights) -> Weights:
    found = start.weights.copy()
    found[start.mask] = kept
    return found


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a control does in place of its ticket's last rewind.

    masks: function from the ticket's masks of all layers to the control's. weights: function from a layer's `Start` to
    the control's start weights; None: the ticket's. reads_new: whether it reads `Start.new`. starts_over: the start
    weights are a new initialisation instead of the ticket's rewind weights, and training starts at step 0. of_tickets,
    of_supermasks: whether the control exists for trained tickets, and for supermasks.
    """

    masks: Callable[[Masks, Axes, Draw], dict[str, Mask]] = keep_masks
    weights: Callable[[Start], Weights] | None = None
    reads_new: bool = False
    starts_over: bool = False
    of_tickets: bool = True
    of_supermasks: bool = False


CONTROLS: dict[str, Control] = {
    "random_mask": Control(masks=random_mask),
    "layerwise_shuffle": Control(masks=layerwise_shuffle, of_supermasks=True),
    "reinit": Control(starts_over=True),
    "random_sparse": Control(masks=layerwise_shuffle, starts_over=True),
    "sign_shuffle": Control(weights=shuffled_signs, of_tickets=False, of_supermasks=True),
    "sign_flip": Control(weights=flipped_signs, of_supermasks=True),
    "new_magnitudes": Control(weights=new_magnitudes, reads_new=True, of_supermasks=True),
    "constant_magnitude": Control(weights=constant_magnitude, of_supermasks=True),
}


def draws(seed: int, level: int) -> Draw:
    """The random streams of a control, by the trial's seed and the number of its last level."""
    return lambda *where: generator(seed, "control", level, *where)


def _groups(mask: Mask, axes: tuple[int, ...]) -> Mask:
    """Which groups are kept; the axes of a group have size 1."""
    return np.asarray(mask.any(axis=axes, keepdims=True))


def _spread(groups: Mask, shape: tuple[int, ...]) -> Mask:
    return np.array(np.broadcast_to(groups, shape))


def _how_many(order: npt.NDArray[np.intp], groups: Masks, sizes: Mapping[str, int], n_kept: int) -> int:
    """How many groups, in this order, hold `n_kept` weights, or the nearest number to it."""
    distinct = {sizes[name] for name, group in groups.items() if group.size}
    if len(distinct) <= 1:
        return n_kept // max(1, *distinct) if distinct else 0
    each = np.repeat([sizes[name] for name in groups], [group.size for group in groups.values()])[order]
    held = np.concatenate([[0], np.cumsum(each)])
    return int(np.argmin(np.abs(held - n_kept)))
