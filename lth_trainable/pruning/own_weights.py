"""Whether a network still has the weights that a mask was made for. A mask belongs to weights, not to a learner."""

from __future__ import annotations

import torch
from torch import nn

from lth_trainable.pruning.pruner import MaskedLayers

Fingerprint = tuple[float, ...]
ROUNDING = 1e-5  # of the sum of absolute values


def foreign_layers(masked: MaskedLayers, model: nn.Module) -> list[str]:
    """Names of the masked layers whose weight is no parameter of the network: another model, or a new layer in it."""
    own = {id(parameter) for parameter in model.parameters()}
    return [layer.name for layer in masked.layers if id(layer.weight) not in own]


@torch.no_grad()
def unmasked_layers(masked: MaskedLayers) -> list[str]:
    """Names of the masked layers where a removed weight is not zero: loaded, set or initialised by something else.

    NaN counts as zero, because it comes from a training that diverged: NaN times zero is NaN.
    """
    found = []
    for layer, factor in zip(masked.layers, masked.factors(), strict=False):
        weight = layer.weight.detach()
        if torch.equal(weight, weight * factor):  # the usual case, fast
            continue
        if bool(((weight != 0) & (weight == weight) & (factor == 0)).any()):
            found.append(layer.name)
    return found


def replaced_layers(masked: MaskedLayers, model: nn.Module) -> list[str]:
    """Names of the masked layers whose weights are not those of the mask any more; empty without a mask."""
    if masked.in_force is None:
        return []
    return foreign_layers(masked, model) or unmasked_layers(masked)


@torch.no_grad()
def fingerprint(masked: MaskedLayers) -> Fingerprint:
    """Numbers by which these weights are recognised later: for each layer the sum, and the sum of absolute values."""
    sums = [(w.sum(), w.abs().sum()) for w in (layer.weight.detach().float() for layer in masked.layers)]
    return tuple(torch.stack([value for pair in sums for value in pair]).tolist())


def is_near(ours: Fingerprint, theirs: Fingerprint) -> bool:
    """Whether two fingerprints are of the same weights, up to the order of additions on another device."""
    sizes = ours[1::2]
    pairs = zip(ours, theirs, strict=True)
    return all(abs(a - b) <= ROUNDING * (1 + sizes[index // 2]) for index, (a, b) in enumerate(pairs))
