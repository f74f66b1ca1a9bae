"""The contracts of a network."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from lth_trainable.contracts.common import ContractError, as_contracts, noise, serialisable
from lth_trainable.models.networks import Builder
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.masks import count_zeros
from lth_trainable.pruning.pruner import Pruner


@dataclass(frozen=True, kw_only=True)
class For:
    """A builder that is checked with images of this shape and so many classes."""

    builder: Builder
    shape: tuple[int, int, int]
    n_classes: int

    def __call__(self, shape: tuple[int, int, int], n_classes: int) -> nn.Module:
        return self.builder(shape, n_classes)


_SHAPE, _N_CLASSES = (3, 64, 64), 2  # where nothing else is asked for


def answers_per_class(builder: Builder) -> None:
    """f(shape, n_classes) is a network with one finite output for each class."""
    model = _build(builder)
    shape, n_classes = _case(builder)
    model.eval()
    with torch.no_grad():
        outputs = model(noise(2, *shape))
    if tuple(outputs.shape) != (2, n_classes):
        raise ContractError(f"for 2 images of {n_classes} classes its output has the shape {list(outputs.shape)}")
    if not outputs.isfinite().all():
        raise ContractError("a newly built network outputs NaN or infinity")


def has_layers(builder: Builder) -> None:
    """It has a layer to prune, and pruning half of it leaves exactly half."""
    pruner = Pruner(prunable_layers(_build(builder)), CRITERIA["large_final"])
    pruner.prune(Fraction(1, 2))
    due = sum(count_zeros(layer.weight.numel(), Fraction(1, 2)) for layer in pruner.layers)
    if pruner.n_weights - pruner.n_kept != due:
        raise ContractError(
            f"{pruner.n_weights - pruner.n_kept} of {pruner.n_weights} weights are gone; expected {due}"
        )


def built_from_the_seed(builder: Builder) -> None:
    """The same seed gives the same weights, another seed gives others; torch is the only random source."""
    first, second, other = (_build(builder, seed).state_dict() for seed in (0, 0, 1))
    if list(first) != list(second) or not all(torch.equal(first[name], second[name]) for name in first):
        raise ContractError("built twice after one torch.manual_seed, it has different weights; draw from torch only")
    if all(torch.equal(first[name], other[name]) for name in first):
        raise ContractError("with another seed it has the same weights, so replicates would not differ")


def resumes_from_state(builder: Builder) -> None:
    """A new network with the stored `state_dict` gives the same outputs as the original."""
    saved, fresh = _build(builder), _build(builder, seed=1)
    fresh.load_state_dict(pickle.loads(pickle.dumps(saved.state_dict())))
    x = noise(2, *_case(builder)[0])
    with torch.no_grad():
        if not torch.equal(saved.eval()(x), fresh.eval()(x)):
            raise ContractError("its state_dict is incomplete: a restored network gives other outputs")


def _case(builder: Builder) -> tuple[tuple[int, int, int], int]:
    return (builder.shape, builder.n_classes) if isinstance(builder, For) else (_SHAPE, _N_CLASSES)


def _build(builder: Builder, seed: int = 0) -> nn.Module:
    """Build the network with `seed`, without changing torch's global random stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder(*_case(builder))
    if not isinstance(model, nn.Module):
        raise ContractError(f"it returns {type(model).__name__}; expected a network (nn.Module)")
    return model


CONTRACTS = as_contracts(answers_per_class, has_layers, built_from_the_seed, resumes_from_state, serialisable)
