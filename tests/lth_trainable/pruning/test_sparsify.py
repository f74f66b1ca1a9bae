from __future__ import annotations

import builtins
import contextlib
import io
from fractions import Fraction
from typing import Any

import pytest
import torch
from fastai.callback import schedule as _lr_find  # noqa: F401
from fastai.callback.core import Callback
from fastai.optimizer import SGD, Adam, RMSProp
from torch import nn

import lth_trainable
from lth_trainable import (
    Schedule,
    SparsifyCallback,
    large_final,
    random_scores,
    sched_agp,
    sched_dsd,
    sched_iterative,
    sched_one_shot,
)
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.models.networks import lenet_300_100, resnet18
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.masks import count_zeros
from lth_trainable.pruning.pruner import Pruner, report
from tests.plugins import tiny_cnn
from tests.support.callback import Spy, callback, learner, masked, tensors


def test_the_tutorials_lines() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        learner().fit(20, 1e-3, cbs=callback(lth=True, verbose=True))
    lines = out.getvalue().splitlines()
    assert lines[:3] == [
        "Pruning of weight until a sparsity of 50%", "Left out: 9 (Linear), not a convolution",
        "Saving Weights at epoch 0",
    ]  # fmt: skip
    at = lines.index("Resetting Weights to their epoch 0 values")
    assert lines[at - 1] == "Sparsity at the end of epoch 4: 0.00%"
    assert lines[at + 1] == "Sparsity at the end of epoch 5: 16.67%"
    assert lines.count("Resetting Weights to their epoch 0 values") == 3
    assert "Sparsity at the end of epoch 19: 50.00%" in lines and "Final Sparsity: 50.00%" in lines
    assert lines[-1] == "Overall                        all             486        243           50.00%"


def test_the_line_of_a_later_rewind_epoch() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        learner().fit(8, 1e-3, cbs=callback(lth=True, rewind_epoch=1, verbose=True))
    lines = out.getvalue().splitlines()
    assert lines.index("Saving Weights at epoch 1") == lines.index("Sparsity at the end of epoch 0: 0.00%") + 1
    assert "Resetting Weights to their epoch 1 values" in lines


def test_the_report_of_resnet18_is_exact() -> None:
    torch.manual_seed(0)
    pruner = Pruner(prunable_layers(resnet18((3, 64, 64), 2)), large_final)
    pruner.prune(Fraction(1, 2))
    lines = report(pruner).splitlines()
    assert len(pruner.layers) == 20 and lines[0] == "Sparsity Report:" and lines[1] == "-" * 80
    assert lines[4] == "conv1                          Conv2d          9,408      4,704         50.00%"
    assert lines[-1] == "Overall                        all             11,166,912 5,583,456     50.00%"


@pytest.mark.parametrize("rewind_epoch", [0, 1])
def test_a_reset_restores_every_tensor(rewind_epoch: int) -> None:
    learn, cb = (
        learner(),
        callback(schedule=Schedule(sched_one_shot, start_pct=0.5), lth=True, rewind_epoch=rewind_epoch),
    )
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def look() -> None:
        seen.setdefault(learn.epoch, tensors(learn.model))

    learn.fit(4, 1e-2, cbs=[cb, Spy(look)])
    masks = {
        layer.parameter_name: torch.from_numpy(cb.pruner.in_force[layer.parameter_name]) for layer in cb.pruner.layers
    }
    assert any("running_var" in name for name in seen[2])
    for name, tensor in seen[2].items():
        expected = seen[rewind_epoch][name]
        assert torch.equal(tensor, expected * masks[name] if name in masks else expected), name
    assert not torch.equal(seen[1]["1.running_var"], seen[0]["1.running_var"])


@pytest.mark.parametrize("opt", [
    {"opt_func": Adam, "wd": 0.1}, {"opt_func": SGD, "wd": 0.1}, {"opt_func": RMSProp},
])  # fmt: skip
def test_masked_weights_are_zero_before_every_forward_pass_and_negative_weights_train(opt: dict[str, Any]) -> None:
    learn, cb = learner(**opt), callback(80, lth=True)
    zeros = []

    def look() -> None:
        if cb.pruner.levels:
            zeros.append(all((weight[~mask] == 0).all() for _, weight, mask in masked(cb)))

    learn.fit(8, 1e-2, cbs=[cb, Spy(look)])
    assert len(zeros) == (8 - 2) * (5 + 1) and all(zeros)
    start = cb.rewind_point.tensors
    for layer in cb.pruner.layers:
        negative = torch.from_numpy(cb.pruner.in_force[layer.parameter_name]) & (start[layer.parameter_name] < 0)
        moved = layer.weight[negative] != start[layer.parameter_name][negative]
        assert moved.float().mean() > 0.5  # a filter may be dead; frozen negative weights would leave none


def test_masks_only_shrink_and_sparsity_is_measured_from_the_mask() -> None:
    learn, cb = learner(), callback(90, lth=True)
    learn.fit(8, 1e-2, cbs=cb)
    assert len(cb.pruner.levels) == 3
    for before, after in zip(cb.pruner.levels, cb.pruner.levels[1:], strict=False):
        for name in before:
            assert not (after[name] & ~before[name]).any()
    zeros = sum(int((~mask).sum()) for mask in cb.pruner.in_force.values())
    assert cb.pruner.sparsity_pct == 100 * zeros / cb.pruner.n_weights == pytest.approx(90, abs=0.2)


def test_dsd_grows_weights_back() -> None:
    learn, cb = learner(), callback(60, schedule=Schedule(sched_dsd))
    learn.fit(12, 1e-2, cbs=cb)
    kept = [sum(int(mask.sum()) for mask in level.values()) for level in cb.pruner.levels]
    zeros = sum(count_zeros(layer.weight.numel(), Fraction(3, 5)) for layer in cb.pruner.layers)
    assert min(kept) == cb.pruner.n_weights - zeros and kept[-1] == cb.pruner.n_weights


def test_reset_end_leaves_the_untrained_network_under_the_mask() -> None:
    learn, cb = learner(), callback(lth=True, reset_end=True)
    start = tensors(learn.model)
    learn.fit(8, 1e-2, cbs=cb)
    for layer in cb.pruner.layers:
        mask = torch.from_numpy(cb.pruner.in_force[layer.parameter_name])
        assert torch.equal(layer.weight.detach(), start[layer.parameter_name] * mask)
    assert torch.equal(learn.model[1].running_mean, start["1.running_mean"])


def test_the_supermask_is_judged_beside_chance_and_the_majority_class(capsys: pytest.CaptureFixture[str]) -> None:
    learn, cb = learner(), callback(lth=True, reset_end=True, verbose=True)
    with pytest.raises(UserError, match="pruned nothing yet"):
        cb.supermask()
    learn.fit(8, 1e-2, cbs=cb)
    found = cb.supermask()
    assert found.chance == 0.1 and found.found.raw == pytest.approx(
        float((learn.get_preds()[0].argmax(1) == torch.from_numpy(load_dataset("digits").valid.y)).float().mean())
    )
    out = capsys.readouterr().out
    assert "majority class" in out and str(found) in out


def test_plots_show_the_plan_and_the_layers() -> None:
    cb = callback(lth=True)
    axes = cb.plot_schedule(20)
    assert pytest.approx([max(axes.lines[0].get_ydata()), sorted(set(axes.lines[0].get_ydata()))[1]]) == [50.0, 100 / 6]
    learner().fit(8, 1e-2, cbs=cb)
    assert len(cb.plot_layers().patches) >= 2


def test_validate_get_preds_and_lr_find_leave_no_trace() -> None:
    learn, cb = learner(), callback(lth=True)
    learn.add_cb(cb)

    def use_everything() -> None:
        learn.validate()
        learn.get_preds()

    use_everything()
    learn.lr_find(num_it=10, show_plot=False)
    assert cb.pruner is None and cb.rewind_point is None
    learn.fit(8, 1e-2)
    levels, start, after = len(cb.pruner.levels), cb.rewind_point, tensors(learn.model)
    use_everything()
    learn.lr_find(num_it=10, show_plot=False)
    assert (len(cb.pruner.levels), cb.rewind_point) == (levels, start)
    assert all(torch.equal(t, after[name]) for name, t in tensors(learn.model).items())
    assert all((weight[~mask] == 0).all() for _, weight, mask in masked(cb))


def test_validating_in_the_middle_of_a_fit_changes_nothing() -> None:
    class Validates(Callback):
        order = 60

        def after_train(self) -> None:
            epoch = self.learn.epoch
            self.learn.validate()
            self.learn.epoch = epoch

    plain, with_validation = [], []
    for kept, extra in ((plain, []), (with_validation, [Validates()])):
        torch.manual_seed(0)
        learn, cb = learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), callback(lth=True)
        learn.fit(8, 1e-2, cbs=[cb, *extra])
        kept += [learn.model[1].weight.detach(), len(cb.pruner.levels)]
    assert torch.equal(plain[0], with_validation[0]) and plain[1] == with_validation[1] == 3


def test_an_exception_in_mid_fit_leaves_no_trace_on_masks_or_schedule() -> None:
    class Fails(Callback):
        def after_train(self) -> None:
            if self.learn.epoch == 5:
                raise RuntimeError("power cut")

    learn, cb = learner(), callback(lth=True)
    with pytest.raises(RuntimeError, match="power cut"):
        learn.fit(20, 1e-2, cbs=[cb, Fails()])
    learn.fit(20, 1e-2, cbs=cb)
    assert len(cb.pruner.levels) == 3 and cb.pruner.sparsity_pct == pytest.approx(50)


def test_masks_are_not_in_the_state_dict() -> None:
    learn = learner()
    names = list(learn.model.state_dict())
    learn.fit(8, 1e-2, cbs=callback(lth=True))
    assert list(learn.model.state_dict()) == names


def test_convolutions_are_pruned_by_default_and_linear_layers_where_there_are_none() -> None:
    assert [layer.name for layer in prunable_layers(tiny_cnn((1, 8, 8), 10))] == ["0", "4"]
    assert [layer.name for layer in prunable_layers(lenet_300_100((1, 8, 8), 10))] == ["1", "3", "5"]
    assert [layer.name for layer in prunable_layers(tiny_cnn((1, 8, 8), 10), nn.Linear)] == ["9"]
    with pytest.raises(UserError, match="no layer to prune"):
        prunable_layers(nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_prunes_exactly_and_the_same_way_twice(name: str) -> None:
    found = []
    for _ in range(2):
        learn = learner()
        cb = SparsifyCallback(75, "weight", "global", name, Schedule(sched_iterative, start_pct=0.25), verbose=False)
        learn.fit(4, 1e-2, cbs=cb)
        found.append(cb.pruner)
        assert cb.pruner.n_kept == cb.pruner.n_weights - count_zeros(cb.pruner.n_weights, Fraction(3, 4))
    first, second = found
    assert all((first.in_force[n] == second.in_force[n]).all() for n in first.in_force)


def test_random_scores_differ_by_seed_and_layer() -> None:
    masks = []
    for seed in (0, 1):
        pruner = Pruner(prunable_layers(lenet_300_100((1, 8, 8), 64)), random_scores, seed=seed)
        pruner.prune(Fraction(1, 2))
        masks.append(pruner.in_force["1.weight"])
    assert (masks[0] != masks[1]).mean() == pytest.approx(0.5, abs=0.05)


def test_a_layer_never_empties_silently() -> None:
    pruner = Pruner(prunable_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 50))), large_final)
    with pytest.warns(UserWarning, match="no weight is left in 0"):
        pruner.prune(Fraction(9, 10))
    assert pruner.collapsed == ["0"]


def test_bad_arguments_are_refused_before_any_training() -> None:
    for arguments, message in (
        ((0.5, "weight", "local", large_final, Schedule(sched_one_shot)), "did you mean 50"),
        ((100, "weight", "local", large_final, Schedule(sched_one_shot)), "no weight would be left"),
        ((50, "wieght", "local", large_final, Schedule(sched_one_shot)), "did you mean weight"),
        ((50, "weight", "locl", large_final, Schedule(sched_one_shot)), "did you mean local"),
        ((50, "weight", "local", "large", Schedule(sched_one_shot)), "large_final"),
        ((50, "weight", "local", large_final, Schedule(sched_agp), True), "reset at each prune would never train"),
    ):
        with pytest.raises(UserError, match=message):
            SparsifyCallback(*arguments)
    learn = learner()
    before = tensors(learn.model)
    with pytest.raises(UserError, match="up to the first prune"):
        learn.fit(20, 1e-2, cbs=callback(lth=True, rewind_epoch=9))
    with pytest.raises(UserError, match="no room for 3"):
        learn.fit(2, 1e-2, cbs=callback(lth=True))
    assert all(torch.equal(t, before[name]) for name, t in tensors(learn.model).items())


def test_star_import_shadows_no_name_of_python_torch_or_fastai() -> None:
    fastai_names: dict[str, Any] = {}
    exec("from fastai.vision.all import *", fastai_names)
    ours: dict[str, Any] = {}
    exec("from lth_trainable import *", ours)
    names = set(ours) - {"__builtins__"}
    assert {"SparsifyCallback", "Schedule", "sched_agp", "large_final", "small_final"} <= names
    assert names == set(lth_trainable.__all__)
    schedules = {"cos"}  # fasterai's name; torch has one too, but nobody writes a bare `cos` after the imports above
    assert not names & (set(fastai_names) | set(dir(builtins)) | set(dir(nn)))
    assert names & set(dir(torch)) == schedules
