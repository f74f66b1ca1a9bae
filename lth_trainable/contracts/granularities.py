"""The contracts of a granularity, which is passed by its name."""

from __future__ import annotations

import json
import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np

from lth_trainable.contracts.common import LADDER, ContractError, as_contracts, check_shrinking, equal_masks
from lth_trainable.errors import UserError
from lth_trainable.pruning.granularity import group_axes
from lth_trainable.pruning.masks import CONTEXTS, Mask, count_zeros, prune
from lth_trainable.seeds import generator


def groups_are_exact(granularity: str) -> None:
    """In the local context, exactly floor(g s + 1/2) of a layer's g groups are removed as a whole."""
    for name, (scores, axes) in _grouped(granularity).items():
        for sparsity in LADDER:
            kept = prune({name: scores}, sparsity, axes={name: axes})[name].mean(axis=axes)
            if not np.isin(kept, (0, 1)).all():
                raise ContractError(f"{granularity} splits a group of {name} at {float(100 * sparsity):g} %")
            zeros = int(np.count_nonzero(kept == 0))
            if zeros != count_zeros(kept.size, sparsity):
                raise ContractError(
                    f"{granularity} removes {zeros} of {kept.size} groups of {name}; expected another number"
                )


def groups_count_weights(granularity: str) -> None:
    """In the global context, the number of removed weights is within half a group of the target."""
    layers = _grouped(granularity)
    scores, axes = {name: pair[0] for name, pair in layers.items()}, {name: pair[1] for name, pair in layers.items()}
    for sparsity in LADDER:
        masks = prune(scores, sparsity, axes=axes, context="global")
        total, removed = sum(s.size for s in scores.values()), sum(int(np.count_nonzero(~m)) for m in masks.values())
        largest = max(math.prod(np.array(s.shape)[list(axes[name])]) for name, s in scores.items())
        if abs(removed - total * sparsity) > Fraction(int(largest) + 1, 2):
            raise ContractError(f"{granularity} removes {removed} of {total} weights at {float(100 * sparsity):g} %")


def groups_shrink(granularity: str) -> None:
    """Masks only shrink as sparsity rises, and stored masks lead to the same next mask."""
    layers = _grouped(granularity)
    axes = {name: pair[1] for name, pair in layers.items()}
    for context in CONTEXTS:
        levels: list[dict[str, Mask]] = []
        for step, sparsity in enumerate(LADDER):
            scores = {name: np.roll(pair[0], step) for name, pair in layers.items()}
            saved = pickle.loads(pickle.dumps(levels[-1])) if levels else None
            masks = [
                prune(scores, sparsity, axes=axes, context=context, previous=previous)
                for previous in (levels[-1] if levels else None, saved)
            ]
            if not equal_masks(masks[:1], masks[1:]):
                raise ContractError(f"{granularity} ({context}): continuing from a stored mask gives another mask")
            levels.append(masks[0])
        check_shrinking(levels)


def groups_same_in_any_memory_format(granularity: str) -> None:
    """The same scores give the same mask again, and in another memory order."""
    for name, (scores, axes) in _grouped(granularity).items():
        masks = [prune({name: s}, LADDER[1], axes={name: axes}) for s in (scores, scores, np.asfortranarray(scores))]
        if not (equal_masks(masks[:1], masks[1:2]) and equal_masks(masks[:1], masks[2:])):
            raise ContractError(f"{granularity} of {name} depends on the memory format")


def named_in_json(granularity: str) -> None:
    """The name survives JSON and pickling."""
    if json.loads(json.dumps(granularity)) != granularity or pickle.loads(pickle.dumps(granularity)) != granularity:
        raise ContractError(f"the name {granularity!r} does not come back from JSON")


def _grouped(granularity: str) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Scores and axes for each kind of weight that has this granularity."""
    shapes = {"linear": (7, 12), "conv1d": (6, 5, 3), "conv2d": (6, 5, 3, 4), "transposed": (5, 6, 3, 4)}
    shapes["conv3d"] = (4, 5, 3, 2, 2)
    found: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        try:
            axes = group_axes(granularity, len(shape), transposed=name == "transposed")
        except UserError:
            continue
        found[name] = generator(0, f"contract {name}").random(shape, dtype=np.float32), axes
    return found


CONTRACTS = as_contracts(
    groups_are_exact, groups_count_weights, groups_shrink, groups_same_in_any_memory_format, named_in_json
)
