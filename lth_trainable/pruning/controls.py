"""Controls: networks that a ticket must beat, made from its mask and start weights by chance. Pure; numpy alone.

Counts are the ticket's, and arguments stay as they are. `draw(*where)` is numpy's stream at (seed, "control", level,
*where): a control is a function of its seed, not of the worker that trains it.
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
    """The ticket's own masks."""
    return dict(masks)


def random_mask(masks: Masks, axes: Axes, draw: Draw) -> dict[str, Mask]:
    """As many weights as the masks keep in all, drawn without replacement over all layers together.

    masks: Boolean, True where kept, by parameter name. axes: of each mask, those along which weights go together; whole
    groups are drawn then. Groups of one size keep exactly as many weights; of several sizes, those drawn first are kept
    up to the number of weights nearest to it. Layers may empty, as in any global ranking.
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
    """Each layer's mask with its groups in random order: equal layer densities (Su et al., arXiv 2009.11094)."""
    return {name: shuffled(mask, draw(index), axes[name]) for index, (name, mask) in enumerate(masks.items())}


def shuffled(mask: Mask, stream: np.random.Generator, axes: tuple[int, ...] = ()) -> Mask:
    """A random mask of the same shape, axes of groups and count."""
    groups = _groups(mask, axes)
    flat = np.zeros(groups.size, bool)
    flat[stream.permutation(groups.size)[: np.count_nonzero(groups)]] = True
    return _spread(flat.reshape(groups.shape), mask.shape)


def sign_shuffle(weights: Weights, mask: Mask, stream: np.random.Generator) -> Weights:
    """The kept weights of a layer, their signs in random order among them; magnitudes stay where they are.

    As many are negative as before, so only where the signs stand is lost (Zhou et al., arXiv 1905.01067, sec. 4.1: the
    signs are what a supermask needs of the initial weights).
    """
    kept = weights[mask]
    signs = np.where(np.signbit(kept), -1.0, 1.0).astype(kept.dtype)
    found = weights.copy()
    found[mask] = np.copysign(kept, signs[stream.permutation(kept.size)])
    return found


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a control does in place of its ticket's last rewind.

    masks: the ticket's masks of all layers -> the control's. weights: a layer's start weights and its mask -> the
    control's, where they differ. starts_over: the start weights are a new initialisation, not those that the ticket is
    rewound to, and training starts at step 0. of_tickets, of_supermasks: whether it goes with tickets that are trained,
    with supermasks.
    """

    masks: Callable[[Masks, Axes, Draw], dict[str, Mask]] = keep_masks
    weights: Callable[[Weights, Mask, np.random.Generator], Weights] | None = None
    starts_over: bool = False
    of_tickets: bool = True
    of_supermasks: bool = False


CONTROLS: dict[str, Control] = {
    "random_mask": Control(masks=random_mask),
    "layerwise_shuffle": Control(masks=layerwise_shuffle, of_supermasks=True),
    "reinit": Control(starts_over=True),
    "random_sparse": Control(masks=layerwise_shuffle, starts_over=True),
    "sign_shuffle": Control(weights=sign_shuffle, of_tickets=False, of_supermasks=True),
}


def draws(seed: int, level: int) -> Draw:
    """The streams of the controls of a trial's last level."""
    return lambda *where: generator(seed, "control", level, *where)


def _groups(mask: Mask, axes: tuple[int, ...]) -> Mask:
    """Which groups are kept; axes that they lie along have size 1."""
    return np.asarray(mask.any(axis=axes, keepdims=True))


def _spread(groups: Mask, shape: tuple[int, ...]) -> Mask:
    return np.array(np.broadcast_to(groups, shape))


def _how_many(order: npt.NDArray[np.intp], groups: Masks, sizes: Mapping[str, int], n_kept: int) -> int:
    """Groups, in this order, that hold `n_kept` weights, or the number nearest to it."""
    distinct = {sizes[name] for name, group in groups.items() if group.size}
    if len(distinct) <= 1:
        return n_kept // max(1, *distinct) if distinct else 0
    each = np.repeat([sizes[name] for name in groups], [group.size for group in groups.values()])[order]
    held = np.concatenate([[0], np.cumsum(each)])
    return int(np.argmin(np.abs(held - n_kept)))
