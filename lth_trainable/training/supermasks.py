"""Accuracies of an untrained network under masks that were found by training it (Zhou et al., arXiv 1905.01067).

The masks are chosen by criteria that compare final weights with initial ones. Nothing is trained here: each mask is
laid over the initial weights, as they are or as signed constants, and the network is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from lth_trainable.errors import UserError
from lth_trainable.pruning.criteria import CRITERIA, Weights
from lth_trainable.pruning.layers import CONVOLUTIONS, prunable_layers
from lth_trainable.pruning.masks import count_zeros
from lth_trainable.seeds import derive_seed
from lth_trainable.training.instability import Start
from lth_trainable.training.measure import measure

RANDOM = "random"
INITIAL, CONSTANTS = TREATMENTS = ("initial", "signed_constants")  # of the weights under a mask
CONVOLUTION, LINEAR, OUTPUT = KINDS = ("convolution", "linear", "output")  # of layers
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracies (fractions) of an untrained network under a mask. n_kept: prunable weights that the mask keeps."""

    treatment: str
    valid: float
    test: float
    n_kept: int
    n_weights: int


def kinds_of_layers(model: nn.Module) -> dict[str, str]:
    """The kind of each prunable layer, one of `KINDS`, by parameter name: all convolutions and linear layers.

    The output layer is the last one.
    """
    layers = prunable_layers(model, "all")
    kinds = {
        layer.parameter_name: CONVOLUTION if isinstance(model.get_submodule(layer.name), CONVOLUTIONS) else LINEAR
        for layer in layers
    }
    return {**kinds, layers[-1].parameter_name: OUTPUT}


class Ranking:
    """The weights of all layers in the order in which a criterion removes them.

    initial, final: weights by parameter name; only those of `layers` are ranked. seed: for the criterion `random`. Of
    equal scores the lowest index is removed first, as in `masks.prune`. Raises `UserError` for a score that is NaN.
    """

    def __init__(self, criterion: str, layers: list[str], initial: Tensors, final: Tensors, seed: int) -> None:
        self.layers = {}
        for index, name in enumerate(layers):
            noise = _noise(initial[name], seed, index)
            scores = CRITERIA[criterion](
                Weights(now=final[name], initial=initial[name], previous=initial[name], draw=noise)
            )
            if scores.isnan().any():
                raise UserError(
                    f"{name}: found NaN among the scores of {criterion}; the weights have probably diverged"
                )
            self.layers[name] = (scores.shape, scores.flatten().argsort(stable=True))

    def masks(self, sparsities: Mapping[str, Fraction]) -> dict[str, Tensor]:
        """Boolean masks (True: kept) at these sparsities (fractions), by parameter name."""
        found = {}
        for name, (shape, order) in self.layers.items():
            mask = torch.ones(order.shape, dtype=torch.bool, device=order.device)
            mask[order[: count_zeros(len(order), sparsities[name])]] = False
            found[name] = mask.reshape(shape)
        return found


def _noise(like: Tensor, seed: int, index: int) -> Callable[[], Tensor]:
    """Draws uniform noise on the CPU, so that it is the same on every device."""

    def draw() -> Tensor:
        stream = torch.Generator().manual_seed(derive_seed(seed, "supermask", index))
        return torch.rand(like.shape, generator=stream).to(like.device)

    return draw


def treated(initial: Tensors, layers: list[str]) -> dict[str, dict[str, Tensor]]:
    """The weights of these layers with each treatment, by its name.

    Signed constants: the sign of each weight times the standard deviation of its layer's initial weights, kept or not;
    zero stays zero. Source: Zhou et al., arXiv 1905.01067, their code.
    """
    constants = {
        name: initial[name].sign() * initial[name].double().std(correction=0).to(initial[name]) for name in layers
    }
    return {INITIAL: {name: initial[name] for name in layers}, CONSTANTS: constants}


def accuracies(start: Start, rest: Tensors, weights: Mapping[str, Tensors], masks: Tensors) -> Iterator[Accuracies]:
    """Evaluate the network of `start` under masks, once with each treatment of its weights.

    weights: of `treated`. rest: every tensor of the untrained network; what has no mask (biases, norms) is as there.
    """
    model, learn, dls = start.origin.model, start.origin.learn, start.origin.dls
    n_kept, n_weights = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    for treatment, tensors in weights.items():
        under = {name: tensors[name] * mask for name, mask in masks.items()}
        start.point.replaced({**rest, **under}).restore(model)
        valid, test = (measure(model, dls[index], learn.loss_func, learn.autocast).accuracy for index in (1, 2))
        yield Accuracies(treatment=treatment, valid=valid, test=test, n_kept=n_kept, n_weights=n_weights)
