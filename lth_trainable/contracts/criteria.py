"""The contracts of a criterion."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.contracts.common import (
    LADDER,
    ContractError,
    as_contracts,
    check_shrinking,
    equal_masks,
    noise,
    serialisable,
)
from lth_trainable.pruning.criteria import Criterion, Weights
from lth_trainable.pruning.layers import PRUNABLE, prunable_layers
from lth_trainable.pruning.masks import CONTEXTS, Mask, count_zeros
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.seeds import generator


def scores_fit(criterion: Criterion) -> None:
    """A criterion gives one number per weight, none of them NaN, and leaves the weights alone."""
    trial = _Trial(criterion)
    for layer in trial.pruner.layers:
        weights = _weights(layer.weight.detach(), layer.parameter_name)
        before = [t.clone() for t in (weights.now, weights.initial, weights.previous)]
        scores = criterion(weights)
        if not isinstance(scores, Tensor):
            raise ContractError(f"it returns {type(scores).__name__}; a criterion returns a tensor of scores")
        if scores.shape != weights.now.shape:
            found, wanted = list(scores.shape), list(weights.now.shape)
            raise ContractError(
                f"its scores have the shape {found} for weights of the shape {wanted}; expected one score a weight"
            )
        if scores.isnan().any():
            raise ContractError("some of its scores are NaN, which cannot be ranked; does it divide by zero?")
        for tensor, copy in zip((weights.now, weights.initial, weights.previous), before, strict=True):
            if not torch.equal(tensor, copy):
                raise ContractError("it changes the weights that it scores; work on copies (abs(), not abs_())")


def exact_count(criterion: Criterion) -> None:
    """Masks have floor(n s + 1/2) zeros: in each layer (local context) or in total (global context)."""
    for context in CONTEXTS:
        masks = _Trial(criterion, context).climb()
        for sparsity, level in zip(LADDER, masks, strict=True):
            groups = [list(level.values())] if context == "global" else [[mask] for mask in level.values()]
            for group in groups:
                n, zeros = sum(mask.size for mask in group), sum(int(np.count_nonzero(~mask)) for mask in group)
                if zeros != count_zeros(n, sparsity):
                    raise ContractError(
                        f"at a sparsity of {float(100 * sparsity):g} % ({context}) {zeros} of {n} weights are removed;"
                        f" expected {count_zeros(n, sparsity)}"
                    )


def monotone(criterion: Criterion) -> None:
    """As sparsity rises, removed weights stay removed, and they are zero."""
    for context in CONTEXTS:
        trial = _Trial(criterion, context)
        check_shrinking(trial.climb())
        for layer in trial.pruner.layers:
            mask = torch.from_numpy(trial.pruner.levels[-1][layer.parameter_name])
            if layer.weight.detach()[~mask].any():
                raise ContractError(f"removed weights of layer {layer.name} are not zero after the prune")


def deterministic(criterion: Criterion) -> None:
    """The same weights and seed give the same masks, independent of all global random streams."""
    first = _Trial(criterion).climb()
    state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 (plug-ins may draw from the global stream)
    try:
        torch.manual_seed(torch.initial_seed() % 2**31 + 1)
        np.random.seed(7)  # noqa: NPY002
        second = _Trial(criterion).climb()
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
    if not equal_masks(first, second):
        raise ContractError("two runs on the same weights give different masks; draw random numbers from w.noise only")


def resumable(criterion: Criterion) -> None:
    """A new process that continues from stored masks and weights finds the same next mask."""
    through = _Trial(criterion)
    expected = through.climb()
    before = _Trial(criterion)
    before.climb(LADDER[:-1])
    after = _Trial(criterion)
    after.restore(pickle.loads(pickle.dumps(before.state())))
    if not equal_masks(expected[-1:], after.climb(LADDER[-1:])[-1:]):
        raise ContractError(
            "continuing from stored masks gives another mask than continuing directly; it must not keep state"
        )


class _Trial:
    """A small network with every kind of layer; it is pruned level by level, and its weights change in between."""

    def __init__(self, criterion: Criterion, context: str = "local") -> None:
        self.model = _small_network()
        layers = prunable_layers(self.model, PRUNABLE)
        self.pruner = Pruner(layers, criterion, context=context, seed=3)

    def climb(self, ladder: tuple[Fraction, ...] = LADDER) -> list[dict[str, Mask]]:
        """Prune to each sparsity of `ladder` and return the masks of all levels so far."""
        for sparsity in ladder:
            self._train(len(self.pruner.levels))
            self.pruner.prune(sparsity, self.model, lambda: [noise(4, 3, 8, 8)])
        return self.pruner.levels

    def state(self) -> dict[str, Any]:
        pruner = self.pruner
        return {
            "levels": pruner.levels, "requested_sparsity": pruner.requested_sparsity, "initial": pruner.initial,
            "previous": pruner.previous, "model": self.model.state_dict(),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for masks in state["levels"]:
            self.pruner.apply_mask(masks)
        pruner = self.pruner
        pruner.requested_sparsity = state["requested_sparsity"]
        pruner.initial, pruner.previous = state["initial"], state["previous"]

    @torch.no_grad()
    def _train(self, level: int) -> None:
        """Change the weights, as the training between two prunes would."""
        for index, layer in enumerate(self.pruner.layers):
            step = generator(0, "contract", level, index).standard_normal(layer.weight.shape, dtype=np.float32)
            layer.weight.add_(torch.from_numpy(step), alpha=0.1)
        self.pruner.apply()


def _small_network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            draw = generator(0, "contract weights", index).standard_normal(parameter.shape, dtype=np.float32)
            parameter.copy_(torch.from_numpy(draw))
    return model


def _weights(now: Tensor, name: str) -> Weights:
    """The argument of a criterion, with all tensors different from each other."""
    draws = [
        torch.from_numpy(generator(0, f"contract {purpose} {name}").random(tuple(now.shape), dtype=np.float32))
        for purpose in ("initial", "previous", "noise", "inputs")
    ]
    return Weights(
        now=now.clone(), initial=draws[0] - 0.5, previous=draws[1] - 0.5, draw=lambda: draws[2], inputs=draws[3]
    )


CONTRACTS = as_contracts(scores_fit, exact_count, monotone, deterministic, resumable, serialisable)
