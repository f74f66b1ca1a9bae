from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import Tensor, nn

from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.loaders import resident_loaders
from lth_trainable.errors import UserError
from lth_trainable.models.networks import lenet_300_100
from lth_trainable.pruning.criteria import large_final
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.pruner import MaskedLayers, Pruner
from lth_trainable.pruning.supermask import (
    Accuracies,
    SupermaskReport,
    evaluate,
    random_like,
    recompute_batchnorm,
    signed_constants,
    supermask_report,
)
from tests.plugins import tiny_cnn


def digits() -> DataLoaders:
    return resident_loaders(load_dataset("digits"), batch_size=230, order_seed=0)


def fastai_digits() -> DataLoaders:
    """The same data in fastai's own loaders, the training part shuffled."""
    data = load_dataset("digits")
    parts = [list(zip(*map(torch.from_numpy, (p.x, p.y)), strict=True)) for p in (data.train, data.valid)]
    train, valid = DataLoader(parts[0], bs=64, shuffle=True, drop_last=True), DataLoader(parts[1], bs=64)
    return DataLoaders(train, valid)


def network(batchnorm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return (tiny_cnn if batchnorm else lenet_300_100)((1, 8, 8), 10)


def pruned(model: nn.Module, sparsity: Fraction = Fraction(1, 2)) -> Pruner:
    """A pruner whose weights have moved, at `sparsity`; the model is at its initial weights under the mask."""
    pruner = Pruner(prunable_layers(model), large_final)
    with torch.no_grad():
        for layer in pruner.layers:
            layer.weight.add_(torch.randn_like(layer.weight), alpha=0.1)
        pruner.prune(sparsity)
        for layer in pruner.layers:
            layer.weight.copy_(pruner.initial[layer.parameter_name])
    pruner.apply()
    return pruner


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in (*model.named_parameters(), *model.named_buffers())}


def streams(dls: Any) -> list[Any]:
    """Where every random stream stands, those of the loaders too."""
    own = [(getattr(dl, "epoch", None), dl.rng.getstate() if hasattr(dl, "rng") else None) for dl in dls.loaders]
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), own]  # noqa: NPY002


@pytest.mark.parametrize("dls", [digits, fastai_digits])
def test_nothing_about_the_model_or_any_random_stream_changes(dls: Any) -> None:
    loaders, model = dls(), network()
    pruner = pruned(model)
    model.train()
    model[1].eval()  # a frozen BatchNorm: each module has a flag of its own
    before, flags, where = tensors(model), [m.training for m in model.modules()], streams(loaders)
    supermask_report(model, pruner, loaders)
    recompute_batchnorm(model, loaders.train)
    evaluate(model, loaders.valid)
    assert all(torch.equal(t, before[name]) for name, t in tensors(model).items())
    assert [m.training for m in model.modules()] == flags
    assert streams(loaders) == where
    assert model[1].momentum == 0.1


def test_a_failure_half_way_leaves_the_random_streams_alone() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            raise RuntimeError("no answer")

    dls = digits()
    where = streams(dls)
    with pytest.raises(RuntimeError, match="no answer") as caught:
        evaluate(Broken(), dls.valid)
    assert caught.value.__traceback__ and streams(dls) == where


@pytest.mark.parametrize("dls", [digits, fastai_digits])
def test_evaluate_is_the_share_of_right_answers(dls: Any) -> None:
    model, data = network(), load_dataset("digits")
    model.eval()
    right = (model(torch.from_numpy(data.valid.x)).argmax(1).numpy() == data.valid.y).mean()
    assert evaluate(model, dls().valid) == pytest.approx(right)


def test_what_is_not_classification_is_refused() -> None:
    with pytest.raises(UserError, match="one class number for each image"):
        evaluate(nn.Flatten(), [(torch.zeros(2, 3), torch.zeros(2))])
    with pytest.raises(UserError, match="empty"):
        evaluate(network(), [])


def test_recomputed_statistics_are_the_plain_mean_over_full_batches() -> None:
    model, dls = network(), digits()
    model[1].running_mean.fill_(7)
    fresh = recompute_batchnorm(model, dls.train)
    assert fresh is not model and [m.training for m in fresh.modules()] == [m.training for m in model.modules()]
    outputs = [model[0](x) for x, _ in dls.train.new(shuffle=True)]
    assert {len(x) for x in outputs} == {230}
    means = torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in outputs]).mean(0)
    torch.testing.assert_close(fresh[1].running_mean, means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fresh[1].running_var, variances, atol=1e-5, rtol=1e-4)
    assert fresh[1].momentum == 0.1 and int(fresh[1].num_batches_tracked) == len(outputs)


def test_a_short_last_batch_does_not_count() -> None:
    model, batches = network(), [(torch.randn(64, 1, 8, 8), torch.zeros(64, dtype=torch.int64)) for _ in range(2)]
    short = [*batches, (torch.full((1, 1, 8, 8), 1e6), torch.zeros(1, dtype=torch.int64))]
    with_it, without = recompute_batchnorm(model, short), recompute_batchnorm(model, batches)
    assert torch.equal(with_it[1].running_mean, without[1].running_mean)


def test_without_batchnorm_a_copy_comes_back_untouched() -> None:
    model = network(batchnorm=False)

    def no_data() -> Iterator[Any]:
        raise AssertionError("no data is needed")
        yield

    fresh = recompute_batchnorm(model, no_data())
    assert fresh is not model and all(torch.equal(t, tensors(model)[n]) for n, t in tensors(fresh).items())


def test_random_masks_have_the_same_count_in_every_layer() -> None:
    masks = pruned(network(), Fraction(7, 10)).in_force
    drawn, again, other = random_like(masks, 0), random_like(masks, 0), random_like(masks, 1)
    for name, mask in masks.items():
        assert drawn[name].shape == mask.shape and drawn[name].sum() == mask.sum()
        assert (drawn[name] == again[name]).all()
        assert (drawn[name] != other[name]).any() and (drawn[name] != mask).any()


def test_signed_constants_keep_sign_and_scale_of_each_layer() -> None:
    model = network()
    pruner, before = pruned(model), tensors(model)
    signed = tensors(signed_constants(model, pruner, pruner.initial))
    for layer in pruner.layers:
        name, mask = layer.parameter_name, torch.from_numpy(pruner.in_force[layer.parameter_name])
        start = pruner.initial[name]
        size = start.std(correction=0)
        torch.testing.assert_close(signed[name], torch.where(start > 0, size, -size) * mask)
    assert all(torch.equal(t, before[name]) for name, t in tensors(model).items())
    rest = set(before) - {layer.parameter_name for layer in pruner.layers}
    assert all(torch.equal(signed[name], before[name]) for name in rest)


def test_the_report_is_what_each_network_answers() -> None:
    model, dls = network(), digits()
    pruner = pruned(model)
    found = supermask_report(model, pruner, dls, seed=3)
    assert found.found.raw == evaluate(model, dls.valid)
    assert found.found.recomputed == evaluate(recompute_batchnorm(model, dls.train), dls.valid)
    assert found.signed.raw == evaluate(signed_constants(model, pruner, pruner.initial), dls.valid)
    shuffled = MaskedLayers(prunable_layers(model))
    with torch.no_grad():
        for layer in shuffled.layers:
            layer.weight.copy_(pruner.initial[layer.parameter_name])
    shuffled.apply_mask(random_like(pruner.in_force, 3))
    assert found.shuffled.raw == evaluate(model, dls.valid)
    commonest = np.bincount(load_dataset("digits").valid.y).max() / 287
    assert (found.majority, found.chance, found.n) == (pytest.approx(commonest), 0.1, 287)
    assert found.sparsity_pct == 50 and found.has_batchnorm


def test_the_initial_tensors_may_come_from_outside() -> None:
    model, dls = network(), digits()
    start = tensors(model)
    pruner = pruned(model)
    expected = supermask_report(model, pruner, dls)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    layers_only = MaskedLayers(pruner.layers, pruner.in_force)
    assert supermask_report(model, layers_only, dls, initial=start) == expected
    with pytest.raises(UserError, match=r"no initial weights of 0\.weight, 4\.weight"):
        supermask_report(model, layers_only, dls)
    with pytest.raises(UserError, match="no mask"):
        supermask_report(model, MaskedLayers(pruner.layers), dls)


def a_report(raw: float, recomputed: float, *, has_batchnorm: bool = True) -> SupermaskReport:
    none = Accuracies(raw=0.1, recomputed=0.1)
    return SupermaskReport(
        found=Accuracies(raw=raw, recomputed=recomputed), shuffled=none, signed=none, majority=0.675, chance=0.5,
        n=1478, sparsity_pct=50, has_batchnorm=has_batchnorm,
    )  # fmt: skip


BELOW = "The supermask is below the majority class, with either statistics: always predicting the most common class is"
DIVIDED = "With BatchNorm's raw statistics the supermask is below the majority class; with recomputed ones above the"


@pytest.mark.parametrize(("raw", "recomputed", "sentence"), [
    (0.662, 0.6, f"{BELOW} right more often."),
    (0.662, 0.7, f"{DIVIDED} majority class."),
    (0.7, 0.8, "The supermask is above the majority class, with either statistics."),
    (0.675, 0.675, "The supermask is no better than the majority class, with either statistics."),
])  # fmt: skip
def test_the_report_says_plainly_where_the_supermask_stands(raw: float, recomputed: float, sentence: str) -> None:
    report = a_report(raw, recomputed)
    lines = str(report).splitlines()
    assert lines[-1] == sentence and report.below_majority == (max(raw, recomputed) < 0.675)
    assert lines[0] == (
        "Supermask: the untrained network at 50.00 % sparsity, on 1,478 validation images (one is 0.068 pp)"
    )
    numbers = [line for line in lines if line.endswith("%")]
    assert len(numbers) == 5 and len({len(line) for line in numbers[:3]}) == 1


def test_without_batchnorm_there_is_one_column() -> None:
    text = str(a_report(0.6, 0.6, has_batchnorm=False))
    assert "recomputed" not in text and text.endswith("The supermask is below the majority class.")
    found = supermask_report(model := network(batchnorm=False), pruned(model), digits())
    assert not found.has_batchnorm and found.found.raw == found.found.recomputed


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_report(0.5, 0.5).majority = 0
