"""Rankings agree with fasterai 0.4.1 wherever its oracle is sound.

Its threshold is the k-th lowest score with k = max(1, floor(n s)), and what ties with it is kept: it removes k - 1, and
fewer where scores tie, where floor(n s + 1/2) are asked for. So its mask and our exact one may differ in the ranks
from k to floor(n s + 1/2) and nowhere else.
Left out: `random` (its own noise), `wanda` (needs data), global contexts at granularities whose groups differ in size,
global contexts of criteria with negative scores (it shifts each layer by its own minimum).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.masks import count_zeros
from lth_trainable.pruning.pruner import Pruner

pytest.importorskip("fasterai", reason="the oracle, fasterai 0.4.1, is not installed")
from fasterai.core import criteria as peer_criteria
from fasterai.sparse.sparsifier import Sparsifier

SOUND = sorted(name for name in set(CRITERIA) - {"random", "wanda"} if not name.endswith("_sign"))
NEVER_NEGATIVE = sorted(
    {"large_final", "squared_final", "large_init", "large_init_large_final", "movement", "updating_movement",
     "updating_movmag"}
)  # fmt: skip
ROUNDS = (Fraction(3, 10), Fraction(3, 5), Fraction(9, 10))
TIE = 2e-6  # its scores are float32 with an epsilon of 1.2e-7 added, and shifted


def networks(build: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    ours = build()
    theirs = build()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, (2, 4)))


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 7))


def transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2))


def train_alike(models: tuple[nn.Module, ...], step: int) -> None:
    """The same change of every weight in both networks, so that criteria that look back have something to see."""
    for model in models:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator) * (parameter != 0)


def check_parity(build: Any, layer_type: type, criterion: str, granularity: str, context: str) -> None:
    ours, theirs = networks(build)
    pruner = Pruner(prunable_layers(ours, layer_type), CRITERIA[criterion], granularity=granularity, context=context)
    peer = Sparsifier(theirs, granularity, context, getattr(peer_criteria, criterion), layer_type=layer_type)
    modules = dict(theirs.named_modules())
    for step, sparsity in enumerate(ROUNDS):
        train_alike((ours, theirs), step)
        scores = {layer.name: _scores(peer, modules[layer.name]) for layer in pruner.layers}
        peer.sparsify_model(float(sparsity))
        pruner.prune(sparsity)
        groups = {layer.name: _groups(pruner, layer) for layer in pruner.layers}
        for names in [list(groups)] if context == "global" else [[name] for name in groups]:
            together = np.concatenate([scores[name].ravel() for name in names])
            kept = np.concatenate([groups[name].ravel() for name in names])
            peer_kept = np.concatenate([modules[name]._mask.numpy().ravel().astype(bool) for name in names])
            ranked, asked = np.sort(together), count_zeros(together.size, sparsity)
            first = max(1, int(float(sparsity) * together.size))  # the rank of its threshold, which it keeps
            low, high = ranked[first - 1], ranked[max(first, asked) - 1]
            rescued = np.concatenate([_rescued(scores[name], low) for name in names])
            differ = together[(kept != peer_kept) & ~rescued]
            assert np.count_nonzero(~kept) == asked, (names, sparsity)
            assert ((low - TIE <= differ) & (differ <= high + TIE)).all(), (names, sparsity, differ, low, high)
            if asked >= first and np.count_nonzero(np.abs(together - low) <= TIE) == 1:
                assert differ.size == asked - first + 1, (names, sparsity)
        _follow(pruner, peer, modules)


def _rescued(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Its global context lets a layer that lies below the threshold keep its highest score."""
    return (scores == scores.max()).ravel() & (scores.max() < threshold)


def _scores(peer: Any, module: nn.Module) -> np.ndarray:
    return peer.criteria(module, peer.granularity).detach().numpy().copy()


def _groups(pruner: Pruner, layer: Any) -> np.ndarray:
    """One element a group: whether it is kept."""
    mask = pruner.in_force[layer.parameter_name]
    return mask.all(axis=pruner.axes[layer.parameter_name], keepdims=True)


def _follow(pruner: Pruner, peer: Any, modules: dict[str, nn.Module]) -> None:
    """Go on from one mask: the one element that is apart must not part the next round."""
    for layer in pruner.layers:
        mask = torch.from_numpy(_groups(pruner, layer))
        modules[layer.name]._mask = mask.to(torch.float32)
        modules[layer.name].weight.data.copy_(layer.weight.detach())
        peer.criteria.update_weights(modules[layer.name])


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("criterion", SOUND)
def test_local_masks_of_convolutions(criterion: str, granularity: str) -> None:
    check_parity(convolutions, nn.Conv2d, criterion, granularity, "local")


@pytest.mark.parametrize("criterion", NEVER_NEGATIVE)
def test_global_masks_of_single_weights(criterion: str) -> None:
    check_parity(convolutions, nn.Conv2d, criterion, "weight", "global")


@pytest.mark.parametrize("context", ["local", "global"])
@pytest.mark.parametrize("granularity", ["weight", "row", "column", "layer"])
def test_linear_layers(granularity: str, context: str) -> None:
    if context == "global" and granularity != "weight":
        pytest.skip("its global context counts groups of unequal size alike")
    check_parity(linear, nn.Linear, "large_final", granularity, context)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_transposed_convolutions(granularity: str) -> None:
    check_parity(transposed, nn.ConvTranspose2d, "large_final", granularity, "local")
