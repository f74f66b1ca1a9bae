"""Masks that are found in one pass for several networks are those that each finds by itself, byte for byte."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lth_trainable.errors import UserError
from lth_trainable.pruning import masks_together as module
from lth_trainable.pruning.criteria import CRITERIA, Criterion, Weights, large_final, needs_inputs
from lth_trainable.pruning.layers import Layer
from lth_trainable.pruning.masks import prune
from lth_trainable.pruning.masks_together import Ranking, masks_together
from lth_trainable.pruning.pruner import Pruner, Sparsity
from lth_trainable.tensors import copy_all

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
SHAPES = ((7, 3, 3, 3), (5, 7, 3, 3), (1, 1), (0, 4), (10, 45))
LEVELS = 4
pytestmark = pytest.mark.filterwarnings("ignore:no weight is left")  # one layer has none
RATES = (Fraction(1, 5), Fraction(1, 3), Fraction(0), Fraction(99, 100))  # one member each
inf = float("inf")


def weights_of(seed: int, kind: str) -> list[Tensor]:
    """Weights of a network. ties: of few values, with zeros of both signs; infinite: a third of them are."""
    stream = np.random.default_rng(seed)
    found = []
    for shape in SHAPES:
        values = stream.standard_normal(shape).astype(np.float32)
        if kind == "ties":
            values = np.copysign(np.round(values), values)
        elif kind == "infinite":
            values = np.where(stream.random(shape) < 1 / 3, np.copysign(np.float32(inf), values), values)
        elif kind == "tiny":
            values *= np.float32(1e-42)  # most are denormal
        found.append(torch.from_numpy(values))
    return found


def pruner_of(weights: list[Tensor], criterion: Criterion, context: str, seed: int, device: str, **more: Any) -> Pruner:
    """A pruner of its own copy of the weights, those of convolutions laid out as on a GPU."""
    layers = []
    for number, weight in enumerate(weights):
        order = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        own = nn.Parameter(weight.to(device, copy=True, memory_format=order))
        layers.append(Layer(name=f"layer{number}", type="any", parameter_name=f"layer{number}.weight", weight=own))
    return Pruner(layers, criterion, context=context, seed=seed, **more)


class Company:
    """Ranks each network together with those that have asked before, at any of their levels, in changing order."""

    def __init__(self) -> None:
        self.known: list[Ranking] = []
        self.passes: list[int] = []

    def rank(self, ranking: Ranking) -> Tensor | None:
        place = len(self.passes) % (len(self.known) + 1)
        asked = [*self.known[:place], ranking, *self.known[place:]]
        self.passes.append(len(asked))
        self.known = [ranking, *self.known[:6]]
        return masks_together(asked)[place]


def bytes_of(pruner: Pruner) -> dict[str, Any]:
    """All that a prune leaves behind."""
    assert pruner.in_force is not None
    tensors = {
        **{f"weight {layer.name}": layer.weight for layer in pruner.layers},
        **{f"factor {layer.name}": f for layer, f in zip(pruner.layers, pruner.factors(), strict=True)},
        **{f"previous {name}": tensor for name, tensor in pruner.previous.items()},
    }
    return {
        **{name: (t.detach().cpu().contiguous().numpy().tobytes(), t.stride()) for name, t in tensors.items()},
        **{f"mask {n}": (m.tobytes(), m.shape, m.dtype, m.flags.c_contiguous) for n, m in pruner.in_force.items()},
        "counts": pruner.counts_by_level, "requested": pruner.requested_sparsity, "n_levels": len(pruner.levels),
    }  # fmt: skip


def train(pruners: tuple[Pruner, Pruner], level: int, kind: str, seed: int) -> None:
    """Move the weights of both pruners in the same way, and set their zeros."""
    new = weights_of(1000 * level + seed, kind)
    for pruner in pruners:
        with torch.no_grad():
            copy_all([layer.weight for layer in pruner.layers], [w.to(pruner.layers[0].weight) for w in new])
        if kind != "infinite":  # infinite times zero would be NaN
            pruner.apply()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("context", ["local", "global"])
@pytest.mark.parametrize("kind", ["normal", "ties", "tiny"])
@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if not needs_inputs(criterion)])
def test_levels_of_members_at_different_sparsities(name: str, kind: str, context: str, device: str) -> None:
    company, criterion = Company(), CRITERIA[name]
    members = []
    for seed in range(len(RATES)):
        alone, together = (pruner_of(weights_of(seed, kind), criterion, context, seed, device) for _ in range(2))
        together.ranker = company.rank
        members.append((alone, together))
    for level in range(1, LEVELS + 1):
        for seed, (rate, pair) in enumerate(zip(RATES, members, strict=True)):
            train(pair, level, kind, seed)
            for pruner in pair:
                pruner.prune(1 - (1 - rate) ** level)
            alone, together = map(bytes_of, pair)
            assert alone == together
    assert len(company.passes) == LEVELS * len(RATES) and max(company.passes) == 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("context", ["local", "global"])
@pytest.mark.parametrize("name", ["large_final", "small_final", "large_final_same_sign"])
def test_infinite_scores_do_not_bring_weights_back(name: str, context: str, device: str) -> None:
    company = Company()
    pair = tuple(pruner_of(weights_of(0, "infinite"), CRITERIA[name], context, 0, device) for _ in range(2))
    pair[1].ranker = company.rank
    for level in range(1, LEVELS + 1):
        train((pair[0], pair[1]), level, "infinite", 0)
        for pruner in pair:
            pruner.prune(Fraction(level, 5))
        assert [pruner.counts_by_level for pruner in pair[:1]] == [pair[1].counts_by_level]
        masks = [pruner.in_force for pruner in pair]
        assert masks[0] is not None and masks[1] is not None
        for layer, mask in masks[0].items():
            assert np.array_equal(mask, masks[1][layer])


def test_masks_do_not_grow_and_each_layer_may_have_its_own_sparsity() -> None:
    targets: list[Sparsity] = [
        Fraction(1, 2), Fraction(1, 4), {f"layer{i}.weight": Fraction(1, 2 + i % 2) for i in range(len(SHAPES))},
    ]  # fmt: skip
    pair = [pruner_of(weights_of(0, "normal"), large_final, "local", 0, "cpu") for _ in range(2)]
    pair[1].ranker = Company().rank
    for target in targets:
        for pruner in pair:
            pruner.prune(target)
        assert bytes_of(pair[0]) == bytes_of(pair[1])
    for pruner in pair:
        with pytest.warns(UserWarning, match="no weight is left"):
            pruner.prune(Fraction(1))
    assert bytes_of(pair[0]) == bytes_of(pair[1])


def filters(w: Weights) -> Tensor:
    """A user's criterion, which is not elementwise: each weight has the mean of its output, so there are many ties."""
    return w.now.abs().mean(dim=tuple(range(1, w.now.ndim)), keepdim=True).expand_as(w.now)


@pytest.mark.parametrize("context", ["local", "global"])
def test_any_criterion_may_be_ranked_together(context: str) -> None:
    weights = [weight for weight in weights_of(0, "normal") if weight.numel()]
    pair = [pruner_of(weights, filters, context, 0, "cpu") for _ in range(2)]
    pair[1].ranker = Company().rank
    for level in range(1, LEVELS + 1):
        for pruner in pair:
            pruner.prune(Fraction(level, 6))
        assert bytes_of(pair[0]) == bytes_of(pair[1])


def refused(ranking: Ranking) -> Tensor | None:
    raise AssertionError("this must not be ranked together")


@pytest.mark.parametrize(
    "settings", [{"granularity": "filter"}, {"granularity": "kernel", "context": "global"}, {"regrows": True}]
)
def test_groups_and_masks_that_grow_are_found_alone(settings: dict[str, Any]) -> None:
    weights = weights_of(0, "normal")[:2]
    pruner = pruner_of(weights, large_final, **{"context": "local", "seed": 0, "device": "cpu", **settings})
    pruner.ranker = refused
    pruner.prune(Fraction(1, 2))
    assert 0 < pruner.n_kept < pruner.n_weights


def test_output_rows_and_large_networks_are_found_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pruner_of(weights_of(0, "normal"), large_final, "output_row", 0, "cpu")
    rows.ranker = refused
    rows.prune(Fraction(1, 2))
    large = pruner_of(weights_of(0, "normal"), large_final, "local", 0, "cpu")
    monkeypatch.setattr("lth_trainable.pruning.pruner.MOST_TOGETHER", large.n_weights - 1)
    large.ranker = refused
    large.prune(Fraction(1, 2))
    assert rows.levels and large.levels


@pytest.mark.parametrize("context", ["local", "global"])
def test_nan_is_refused_for_its_own_network_only(context: str) -> None:
    company, messages = Company(), []
    sound, sick, alone = (pruner_of(weights_of(seed, "normal"), large_final, context, 0, "cpu") for seed in (0, 1, 1))
    for pruner in (sick, alone):
        pruner.layers[4].weight.data[2, 3] = float("nan")
    sound.ranker = sick.ranker = company.rank
    for pruner in (sick, alone):
        with pytest.raises(UserError, match="found NaN among the scores") as caught:
            pruner.prune(Fraction(1, 2))
        messages.append(str(caught.value))
    sound.prune(Fraction(1, 2))
    assert messages[0] == messages[1] and company.passes == [1, 2] and len(sound.levels) == 1


def ranking(scores: list[float], kept: list[int], n_zeros: int) -> Ranking:
    return Ranking(
        scores=torch.tensor(scores), was_kept=torch.tensor(kept, dtype=torch.bool), sizes=(len(scores),),
        n_zeros=(n_zeros,),
    )  # fmt: skip


@pytest.mark.parametrize(("scores", "kept", "n_zeros", "expected"), [
    ([1.0, 1, 1, 1], [1, 1, 1, 1], 2, [0, 0, 1, 1]),
    ([0.0, -0.0, 0.0, -0.0], [1, 1, 1, 1], 1, [0, 1, 1, 1]),
    ([-0.0, 0.0, -0.0, 0.0], [1, 1, 1, 1], 3, [0, 0, 0, 1]),
    ([5.0, -inf, 7.0, -inf], [1, 1, 0, 1], 1, [1, 1, 0, 1]),
    ([5.0, -inf, 7.0, -inf], [1, 1, 0, 1], 2, [1, 0, 0, 1]),
    ([-3.0, -2.0, -1e-45, 1e-45], [1, 1, 1, 1], 3, [0, 0, 0, 1]),
    ([inf, inf, -inf, 0.0], [1, 1, 1, 1], 0, [1, 1, 1, 1]),
    ([inf, inf, -inf, 0.0], [1, 1, 1, 1], 4, [0, 0, 0, 0]),
])  # fmt: skip
@pytest.mark.parametrize("device", DEVICES)
def test_order_of_scores(scores: list[float], kept: list[int], n_zeros: int, expected: list[int], device: str) -> None:
    own = ranking(scores, kept, n_zeros)
    own = Ranking(scores=own.scores.to(device), was_kept=own.was_kept.to(device), sizes=own.sizes, n_zeros=own.n_zeros)
    (found,) = masks_together([own])
    assert found is not None and found.int().tolist() == expected


def test_networks_of_other_sizes_are_ranked_apart_and_large_ones_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    found_in: Callable[..., Any] = module._masks

    def watched(rankings: list[Ranking], sizes: tuple[int, ...]) -> Any:
        passes.append(len(rankings))
        return found_in(rankings, sizes)

    monkeypatch.setattr(module, "_masks", watched)
    monkeypatch.setattr(module, "_AT_ONCE", 20)
    stream = np.random.default_rng(0)
    networks = [(seed, n) for seed, n in zip(range(7), itertools.cycle((9, 40)), strict=False)]
    scores = [stream.integers(0, 4, n).astype(np.float32) for _, n in networks]
    rankings = [ranking(own.tolist(), [1] * len(own), seed) for (seed, _), own in zip(networks, scores, strict=True)]
    for (seed, n), own, mask in zip(networks, scores, masks_together(rankings), strict=True):
        assert mask is not None
        assert mask.tolist() == prune({"": own}, Fraction(seed, n))[""].tolist()
    assert sorted(passes) == [1, 1, 1, 2, 2]
