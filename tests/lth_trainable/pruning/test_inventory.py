"""No weight is passed over in silence: each is pruned, or listed with the reason, and the reports count all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn
from torch.nn.utils import parametrizations, prune

from lth_trainable import SparsifyCallback, UserError, large_final, one_shot
from lth_trainable.pruning.inventory import Inventory, take_inventory
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.pruner import Pruner
from tests.support.callback import silent


def inventory(model: nn.Module, **settings: Any) -> Inventory:
    found = take_inventory(
        model, prunable_layers(model, **settings), settings.get("layer_type"), settings.get("select")
    )
    assert found.n_all == sum(parameter.numel() for parameter in model.parameters())
    assert found.n_prunable + sum(found.by_reason().values()) == found.n_all
    return found


def pruned_by_torch() -> nn.Module:
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.listed = nn.Parameter(torch.rand(3, 3)), nn.ParameterList([torch.rand(2, 2)])


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight_norm": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        "0.parametrizations.weight (ParametrizationList), original0, original1 (20 weights): a weight is computed from",
    ),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), "(16 weights): a weight is"),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), "(parametrization: Orthogonal)"),
    "old weight_norm": (
        lambda: torch.nn.utils.weight_norm(nn.Linear(4, 4)),
        "0 (Linear), weight_g, weight_v (20 weights): a weight is computed from it (weight_norm)",
    ),
    "old spectral_norm": (
        lambda: torch.nn.utils.spectral_norm(nn.Linear(4, 4)),
        "0 (Linear), weight_orig (16 weights): a weight is computed from it (spectral_norm)",
    ),
    "torch's pruning": (pruned_by_torch, "torch.nn.utils.prune.remove(layer, 'weight') makes it a weight again"),
    "LSTM": (lambda: nn.LSTM(4, 4), "0 (LSTM), weight_ih_l0, weight_hh_l0 (128 weights): recurrent weights"),
    "GRUCell": (lambda: nn.GRUCell(4, 4), "0 (GRUCell), weight_ih, weight_hh (96 weights): recurrent weights"),
    "embedding": (lambda: nn.Embedding(9, 4), "0 (Embedding), an embedding"),
    "bag": (lambda: nn.EmbeddingBag(9, 4), "0 (EmbeddingBag), an embedding"),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2),
        "0 (MultiheadAttention), in_proj_weight (192 weights): query, key and value weights of attention",
    ),
    "bilinear": (lambda: nn.Bilinear(4, 4, 4), "0 (Bilinear), not the weight of a convolution or linear layer"),
    "own": (Own, "0 (Own), own (9 weights): not the weight of a convolution or linear layer"),
    "list": (Own, "0.listed (ParameterList), 0 (4 weights): not the weight of a convolution or linear layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_weight_that_is_not_pruned_is_listed_with_the_reason(case: str) -> None:
    make, line = CASES[case]
    found = inventory(nn.Sequential(make(), nn.Linear(4, 2)))
    assert any(line in said for said in found.left_out()), found.left_out()
    alone = nn.Sequential(make())
    if case != "attention":  # its output layer can be pruned
        reason = line.rpartition(": ")[2] if ": " in line and "(param" not in line else line.rpartition(", ")[2]
        with pytest.raises(UserError, match=r"Sequential: found no layer to prune \(0\.") as error:
            prunable_layers(alone)
        assert reason.split(" (")[0] in str(error.value)


def test_tied_weights_are_counted_once_and_said() -> None:
    encoder, decoder = nn.Embedding(9, 4), nn.Linear(4, 9)
    decoder.weight = encoder.weight
    found = inventory(nn.Sequential(encoder, nn.Linear(4, 4), decoder))
    assert found.left_out() == ["Left out: 0 (Embedding), shares its weight with 2"]
    assert (found.n_prunable, found.n_all) == (36 + 16, 36 + 20 + 9)
    twice = inventory(nn.Sequential(encoder, nn.Embedding.from_pretrained(encoder.weight), nn.Linear(4, 4)))
    assert "Left out: 0 (Embedding), an embedding" in twice.left_out()


def test_layers_of_another_type_not_selected_or_without_a_target() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))
    assert inventory(model).left_out() == ["Left out: 4 (Linear), not a convolution"]
    assert inventory(model, layer_type="linear").left_out()[0] == "Left out: 0 (Conv2d), of another type"
    found = inventory(model, select="0")
    assert "Left out: 1 (Conv2d), not selected" in found.left_out()
    assert found.by_reason() == {"not selected": 144, "biases and norms": 20, "not a convolution": 16}
    targeted = take_inventory(model, prunable_layers(model)[:1])
    assert "Left out: 1 (Conv2d), without a target in sparsity" in targeted.left_out()


def test_layers_without_a_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"weights without a shape \(0.weight, 0.bias\).*one_batch"):
        prunable_layers(nn.Sequential(nn.LazyLinear(4)))


class Text(nn.Module):
    """Words, a recurrent layer and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(20, 8), nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(self.words(x))[0][:, -1])


def learner(model: nn.Module, x: Any) -> Learner:
    items = [(x(), torch.tensor(index % 3)) for index in range(8)]
    learn = Learner(DataLoaders(*(DataLoader(items, bs=4) for _ in range(2))), model, loss_func=nn.CrossEntropyLoss())
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == "ProgressCallback"])
    learn.logger = silent
    return learn


def test_a_fit_says_what_share_of_all_weights_is_prunable_and_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    learn = learner(Text(), lambda: torch.randint(20, (5,)))
    learn.fit(2, cbs=SparsifyCallback(50, "weight", "local", large_final, one_shot))
    said, names = capsys.readouterr().out, list(learn.recorder.metric_names)
    assert learn.recorder.values[-1][names.index("pruned of all") - 1] == pytest.approx(100 * 24 / 1875)
    n_all = 20 * 8 + 4 * 16 * (8 + 16 + 2) + 16 * 3 + 3
    assert "Left out: words (Embedding), an embedding" in said and "Left out: body (LSTM), weight_ih_l0" in said
    assert f"Prunable: 48 of {n_all:,} weights (2.56%); less than half of the network" in said
    assert f"Pruned: 24 of {n_all:,} weights (1.28%)" in said


def test_dead_filters_of_depthwise_convolutions_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight[2:5] *= 1e-6
    learner(model, lambda: torch.rand(8, 5, 5)).fit(
        2, 1e-9, cbs=SparsifyCallback(40, "weight", "local", large_final, one_shot)
    )
    assert "Dead filters: 3 of 8 in 0 (depthwise), which pass nothing on" in capsys.readouterr().out
    pruner = Pruner(prunable_layers(model), large_final)
    assert pruner.dead_filters == {}
