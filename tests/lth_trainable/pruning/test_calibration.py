"""Criteria that weigh by the inputs of each layer: any data and network, no trace, and refused before a fit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.tabular.all import Categorify, CategoryBlock, Normalize, TabularDataLoaders, tabular_config, tabular_learner
from fastai.torch_core import set_seed
from torch import Tensor, nn

from lth_trainable import SparsifyCallback, UserError, large_final, one_shot, wanda
from lth_trainable.pruning.calibration import calibration, input_norms
from lth_trainable.pruning.criteria import Weights, uses_inputs
from lth_trainable.pruning.layers import prunable_layers
from tests.support.callback import silent, tensors


@uses_inputs
def magnitude_after_a_look(w: Weights) -> Tensor:
    """The scores of `large_final`, but the network runs over training data first."""
    assert w.inputs is not None and w.inputs.shape[1:] == w.now.shape[1:]
    return w.now.abs()


def pruned_by(criterion: Any, learn: Learner, **settings: Any) -> Learner:
    learn.logger = silent
    with learn.no_bar():
        learn.fit(2, 1e-2, cbs=SparsifyCallback(50, "weight", "local", criterion, one_shot, verbose=False, **settings))
    return learn


def tabular() -> Learner:
    """Categories and numbers are two inputs; the loader shuffles, the network has dropout."""
    set_seed(3)
    table = pd.DataFrame({"c": ["a", "b"] * 100, "x": np.linspace(-1, 1, 200), "y": ["p", "q"] * 100})
    dls = TabularDataLoaders.from_df(
        table, cat_names=["c"], cont_names=["x"], procs=[Categorify, Normalize], y_names="y", y_block=CategoryBlock(),
        bs=32, num_workers=0,
    )  # fmt: skip
    return tabular_learner(dls, layers=[20, 10], config=tabular_config(ps=0.2), n_out=2)


class Drawn:
    """Items with noise from every global stream, as transforms draw it."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return torch.full((6,), index / 96) + noise, torch.tensor(index % 3)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def of_fastai(model: nn.Module | None = None) -> Learner:
    set_seed(3)
    dls = DataLoaders(*(DataLoader(Drawn(), bs=16, shuffle=shuffle) for shuffle in (True, False)))
    return Learner(dls, model or network(), loss_func=nn.CrossEntropyLoss())


def of_torch(model: nn.Module | None = None) -> Learner:
    set_seed(3)
    dls = DataLoaders(*(torch.utils.data.DataLoader(Drawn(), 16, shuffle=shuffle) for shuffle in (True, False)))
    return Learner(dls, model or network(), loss_func=nn.CrossEntropyLoss())


@pytest.mark.parametrize("make", [tabular, of_fastai, of_torch])
def test_a_fit_goes_on_as_if_nothing_had_been_looked_at(make: Any) -> None:
    ends = []
    for criterion in (large_final, magnitude_after_a_look):
        weights = tensors(pruned_by(criterion, make()).model)
        ends.append((weights, (random.random(), np.random.rand(), torch.rand(()))))  # noqa: NPY002
    (without, drawn_without), (with_a_look, drawn_with) = ends
    assert all(torch.equal(found, without[name]) for name, found in with_a_look.items())
    assert drawn_without == drawn_with


def test_wanda_on_several_inputs_weighs_by_what_reaches_each_layer() -> None:
    learn = pruned_by(wanda, tabular())
    assert learn.sparsity == 50
    layer = prunable_layers(learn.model)[0]
    (norms,) = input_norms(learn.model, [layer], calibration(learn.dls)).values()
    reached = []
    hook = learn.model.layers[0].register_forward_pre_hook(lambda _, args: reached.append(args[0].detach()))
    learn.get_preds(dl=learn.dls.train.new(shuffle=False, drop_last=False))
    hook.remove()
    assert torch.allclose(norms[0], torch.cat(reached).square().mean(0).sqrt())


class Stateful(nn.Module):
    """Calls its layers by keyword and without a batch, counts its calls, and keeps the last output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 4), nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.calls, self.hidden = 0, torch.zeros(3)
        self.register_buffer("counted", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.counted = self.calls + 1, self.counted + 1
        found = torch.stack([self.second(input=self.first(row).relu()) for row in x])
        self.hidden = found.mean(0).detach()
        return self.norm(found + self.hidden)


def test_the_network_keeps_its_flags_buffers_and_attributes() -> None:
    model = Stateful()
    model.norm.eval()  # frozen, as by fastai's BnFreeze
    before, counted = dict(model.__dict__), model.counted
    norms = input_norms(model, prunable_layers(model), lambda: [torch.ones(5, 6), (torch.ones(2, 6) * 2,)])
    assert torch.allclose(norms["first.weight"], torch.full((4, 6), (13 / 7) ** 0.5))
    assert model.training and model.first.training and not model.norm.training
    assert model.__dict__ == before and model.counted is counted and counted == 0
    assert not any(module._forward_pre_hooks for module in model.modules())


class WithHelper(nn.Module):
    """Has a second head that is used in training only, as Inception has."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.helper = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        return self.head(x) + self.helper(x) if self.training else self.head(x)


def attention() -> nn.Module:
    """Its output layer is used, but never called."""
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.TransformerEncoderLayer(6, 2, 8), nn.Flatten(), nn.Linear(6, 3))


class FlatWithinTheFit(nn.Module):
    """Fails on what the loader gives."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WithHelper, r"called on training data in evaluation mode; not so: helper \(Linear\); leave such layers out"),
        (attention, r"not so: 1.self_attn.out_proj \(NonDynamicallyQuantizableLinear\); leave"),
        (FlatWithinTheFit, r"expected a network that runs on a training batch outside of a step .* RuntimeError: mat1"),
    ],
    ids=["a layer used in training only", "a layer that is never called", "a network that fails"],
)
def test_what_cannot_be_weighed_is_refused_before_anything_changes(model: Any, message: str) -> None:
    learn = of_fastai(model())
    before = tensors(learn.model)
    with pytest.raises(UserError, match=message):
        pruned_by(wanda, learn)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(learn.model).items())
    if model is not FlatWithinTheFit:
        left = "body" if model is WithHelper else "1.linear[12]"
        assert pruned_by(wanda, of_fastai(model()), layers=left).sparsity == 50


def test_a_type_of_layer_without_input_channels_is_refused() -> None:
    learn = of_fastai()
    with pytest.raises(UserError, match=r"not so: 1 \(BatchNorm1d\)"):
        learn.sparsify(50, criteria=wanda, layer_type=nn.BatchNorm1d)
