"""Multiply-adds against torch's own counter and against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode

from lth_trainable.models.flops import weight_uses
from lth_trainable.models.networks import MODELS
from lth_trainable.pruning.layers import LAYER_TYPES, prunable_layers
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial
from tests.plugins import tiny_cnn


class Odd(nn.Module):
    """Groups, strides, dilation, a transposed convolution, a layer called twice, tokens, an idle layer, a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, groups=4)
        self.dilated = nn.Conv2d(8, 8, (3, 1), dilation=2, padding="same")
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2)
        self.tokens, self.idle = nn.Linear(6, 5, bias=False), nn.Linear(3, 3)
        self.names = nn.Embedding(5, 6)
        self.names.weight = self.tokens.weight
        self.normed = weight_norm(nn.Linear(2, 2))  # its weight is computed, so it is no layer to prune

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.dilated(self.dilated(self.grouped(x))))
        return self.tokens(x.flatten(2).transpose(1, 2) + self.names(torch.zeros(1, dtype=torch.long))).mean(1)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(MODELS["resnet18"]((3, 64, 64), 2), (3, 64, 64)), (MODELS["lenet_300_100"]((1, 28, 28), 10), (1, 28, 28)),
     (MODELS["resnet20"]((3, 32, 32), 10), (3, 32, 32)), (MODELS["conv_4"]((3, 33, 30), 10), (3, 33, 30)),
     (tiny_cnn((1, 8, 8), 10), (1, 8, 8)), (Odd(), (4, 17, 13))],
    ids=["resnet18", "lenet", "resnet20", "conv_4", "tiny_cnn", "odd"],
)  # fmt: skip
def test_they_are_half_of_what_torch_counts(model: nn.Module, shape: tuple[int, ...]) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = torch.get_rng_state()
    uses = weight_uses(model, torch.ones(2, *shape))
    assert model.training and torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    sizes = {layer.parameter_name: layer.weight.numel() for layer in prunable_layers(model, LAYER_TYPES["all"])}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.ones(1, *shape))
    assert 2 * sum(n * uses[name] for name, n in sizes.items()) == counter.get_total_flops()


def test_resnet18_costs_what_is_said_of_it() -> None:
    """1.81e9 multiply-adds for a picture of 224 by 224 (He et al., arXiv 1512.03385, table 1: 1.8e9)."""
    model = MODELS["resnet18"]((3, 224, 224), 1000)
    uses = weight_uses(model, torch.ones(1, 3, 224, 224))
    sizes = {layer.parameter_name: layer.weight.numel() for layer in prunable_layers(model, LAYER_TYPES["all"])}
    assert sum(n * uses[name] for name, n in sizes.items()) == 1_814_073_344


def costs(fields: dict[str, Any], store: Store) -> dict[str, Any]:
    result: dict[str, Any] = run_trial(TrialSpec(**fields), store)["result"]
    return result


def test_a_ticket_of_levels(store: Store) -> None:
    """LeNet-300-100 on digits: 50,200 weights, then 30,120 and 18,072; 1,150 pictures; epochs 3 + 2 + 2."""
    found = costs({"target_sparsity_pct": 64, "epochs": 3, "rewind_epoch": 1}, store)
    assert found["epochs_total"] == 7
    assert found["flops_dense"] == 3 * 1150 * 7 * 50_200
    assert found["flops_sparse"] == 3 * 1150 * (3 * 50_200 + 2 * 30_120 + 2 * 18_072)
    assert (found["inference_flops_dense"], found["inference_flops_sparse"]) == (50_200, 18_072)


def test_a_level_that_begins_within_an_epoch(store: Store) -> None:
    """Five steps of 230 pictures an epoch; from iteration 7 of 15 on, eight are left."""
    found = costs({"target_sparsity_pct": 40, "epochs": 3, "rewind_epoch": "7it", "batch_size": 230}, store)
    assert found["epochs_total"] == 5
    assert found["flops_sparse"] == 3 * (15 * 230 * 50_200 + 8 * 230 * 30_120)


def test_layers_that_are_not_pruned_count_whole(store: Store) -> None:
    """Convolutions of 54 weights at 64 places and 432 at 16; the linear layer of 80 is left alone."""
    fields = {"model": "tests.plugins:tiny_cnn", "batch_size": 230, "epochs": 2, "schedule": "omp"}
    found = costs({**fields, "target_sparsity_pct": 50}, store)
    assert found["inference_flops_dense"] == 54 * 64 + 432 * 16 + 80
    assert found["inference_flops_sparse"] == 27 * 64 + 216 * 16 + 80


def test_within_a_fit_and_until_it_diverges(store: Store) -> None:
    fit = costs({"schedule": "one_shot", "target_sparsity_pct": 50, "epochs": 4}, store)
    assert fit["flops_sparse"] == 3 * 1150 * (2 * 50_200 + 2 * 25_100)
    diverged = costs({"control": "dense", "optimizer": "sgd", "lr": 1e30, "epochs": 4}, store)
    assert (diverged["epochs_total"], diverged["flops_dense"]) == (1, 3 * 1150 * 50_200)
