"""Find the width at which a dense network has as many prunable weights as a ticket keeps.

Weights are counted on torch's meta device, so no memory is allocated for them.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.models.networks import build_to_plan
from lth_trainable.pruning.granularity import group_axes
from lth_trainable.pruning.layers import LAYER_TYPES, Layer, prunable_layers
from lth_trainable.pruning.masks import count_zeros
from lth_trainable.spec.trial_spec import TrialSpec

STEPS = range(1, 10_000)  # widths that are tried, in hundredths of a percent


@dataclass(frozen=True, kw_only=True)
class Width:
    """The width of a small dense network.

    pct: percent of the network's normal width. n_weights: its prunable weights at this width. n_kept: the weights that
    the ticket keeps.
    """

    pct: float
    n_weights: int
    n_kept: int


def nearest_width(ticket: TrialSpec, data_root: Path | None = None) -> Width:
    """The smallest width whose number of weights is nearest to what the ticket keeps.

    If two numbers are equally near, the smaller network is taken. Raises `UserError` for a network without a width.
    """
    data = load_dataset(ticket.dataset, data_root, ticket.split_seed, ticket.image_size)
    network = ticket.model, ticket.layers, data.shape, len(data.classes)
    n_kept = weights_kept(_layers(*network, None), ticket)
    count = functools.partial(_count, *network)
    least = bisect.bisect_left(STEPS, n_kept, key=count)
    found = [count(STEPS[i]) for i in (least - 1, least) if 0 <= i < len(STEPS)]
    n_weights = min(found, key=lambda n: abs(n - n_kept))
    step = STEPS[bisect.bisect_left(STEPS, n_weights, key=count)]
    return Width(pct=step / 100, n_weights=n_weights, n_kept=n_kept)


def weights_kept(layers: Sequence[Layer], ticket: TrialSpec) -> int:
    """Weights that the ticket's mask keeps; an approximation if groups of different sizes are ranked together."""
    sparsity, output = ticket.level_sparsities[-1], ticket.output_sparsities[-1]
    if ticket.context == "global":
        n = sum(layer.weight.numel() for layer in layers)
        return n - count_zeros(n, sparsity)
    targets = [sparsity] * (len(layers) - 1) + [sparsity if output is None else output]
    return sum(_kept_of(layer, target, str(ticket.granularity)) for layer, target in zip(layers, targets, strict=True))


def _kept_of(layer: Layer, sparsity: Fraction, granularity: str) -> int:
    axes = group_axes(granularity, layer.weight.ndim, layer.transposed, layer.name)
    size = math.prod(layer.weight.shape[axis] for axis in axes)
    n_groups = layer.weight.numel() // size
    return (n_groups - count_zeros(n_groups, sparsity)) * size


@functools.cache
def _count(model: str, layers: str, shape: tuple[int, int, int], n_classes: int, step: int) -> int:
    return sum(layer.weight.numel() for layer in _layers(model, layers, shape, n_classes, step / 100))


@functools.cache
def _layers(
    model: str, layers: str, shape: tuple[int, int, int], n_classes: int, width_pct: float | None
) -> tuple[Layer, ...]:
    try:
        with torch.device("meta"):
            network = build_to_plan(model, shape, n_classes, width_pct)
    except UserError as error:
        raise UserError(f"small_dense: weights are counted on torch's meta device: {error}") from error
    return tuple(prunable_layers(network, LAYER_TYPES[layers]))
