"""The sparsity to reach at each epoch of a fit, from the sparsity of a SparsifyCallback and its schedule."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

from lth_trainable.errors import bad_value, unknown_name
from lth_trainable.pruning.layers import Layer
from lth_trainable.pruning.schedules import Schedule, exact
from lth_trainable.scalars import plain

Target = Fraction | dict[str, Fraction]
Sparsity = float | Mapping[str, float]


def plain_sparsity(sparsity: Sparsity) -> Sparsity:
    """A sparsity, or one for each layer, in Python's own numbers. Raises `UserError` for what names no layer."""
    for name in sparsity if isinstance(sparsity, Mapping) else ():
        if not isinstance(name, str):
            raise bad_value("sparsity of a layer", name, "the name of a layer, or a pattern of names")
    return {n: plain(pct) for n, pct in sparsity.items()} if isinstance(sparsity, Mapping) else plain(sparsity)


def layers_with_target(layers: Sequence[Layer], sparsity: Sparsity) -> list[Layer]:
    """The layers that have a target. Raises `UserError` for a name or pattern that matches no layer."""
    if not isinstance(sparsity, Mapping):
        return list(layers)
    for pattern in sparsity:
        if not any(fnmatch.fnmatchcase(layer.name, pattern) for layer in layers):
            raise unknown_name("sparsity of a layer", pattern, [layer.name for layer in layers])
    return [layer for layer in layers if _target_of(layer.name, sparsity) is not None]


def target_by_epoch(
    schedule: Schedule, n_epochs: int, sparsity: Sparsity, layers: Sequence[Layer]
) -> dict[int, Target]:
    """Sparsity to reach at the start of each pruning epoch: a fraction, or one by parameter name."""
    if not isinstance(sparsity, Mapping):
        return {event.epoch: event.sparsity for event in schedule.prunes(n_epochs, exact(sparsity) / 100)}
    by_epoch: dict[int, dict[str, Fraction]] = {}
    for layer in layers:
        target = _target_of(layer.name, sparsity)
        assert target is not None
        for event in schedule.prunes(n_epochs, exact(target) / 100):
            by_epoch.setdefault(event.epoch, {})[layer.parameter_name] = event.sparsity
    return dict(by_epoch)


def sparsity_falls(targets: Mapping[int, Target]) -> bool:
    """Whether any target is below the one before it, so that pruned weights return."""
    steps = [target if isinstance(target, dict) else {"": target} for _, target in sorted(targets.items())]
    return any(after[name] < before.get(name, Fraction(0)) for before, after in pairwise(steps) for name in after)


def _target_of(name: str, sparsity: Mapping[str, float]) -> float | None:
    """Percent for a layer: that of its own name, else that of the first pattern that matches."""
    if name in sparsity:
        return sparsity[name]
    return next((value for pattern, value in sparsity.items() if fnmatch.fnmatchcase(name, pattern)), None)


def target_now(sparsity: Sparsity, layers: Sequence[Layer]) -> Target:
    """The target of a prune at once: a fraction, or one by parameter name. layers: those that have a target."""
    if not isinstance(sparsity, Mapping):
        return exact(sparsity) / 100
    found = {layer.parameter_name: _target_of(layer.name, sparsity) for layer in layers}
    return {name: exact(percent) / 100 for name, percent in found.items() if percent is not None}
