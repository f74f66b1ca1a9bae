"""The defects of the nearest peer, each as a test that ours does not have it.

Tested elsewhere: steps on their boundaries (test_schedules), BatchNorm rewound and not reset, an exception in mid-fit,
`validate` and `lr_find` under an attached callback, masks in no state_dict, gradual schedules refused with `lth`
(test_sparsify); mixed precision, several processes, export and resuming (test_fastai).
"""

from __future__ import annotations

import contextlib
import io
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lth_trainable import Schedule, SparsifyCallback, TrialSpec, sched_agp, sched_dsd, sched_iterative, sched_one_shot
from lth_trainable.errors import UserError
from lth_trainable.pruning.criteria import CRITERIA, large_final
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.masks import count_zeros
from lth_trainable.pruning.pruner import Pruner
from tests.plugins import tiny_cnn
from tests.support.callback import Spy, callback, learner, masked


def zeros_pct(cb: SparsifyCallback) -> float:
    """Zeros in the weights themselves, whatever any mask or schedule says."""
    weights = [layer.weight.detach() for layer in cb.pruner.layers]
    return 100 * sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def two_layers() -> tuple[nn.Module, nn.Module]:
    """Weights of different size in the two layers, so that a shift by each layer's own minimum would show."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 50))
    with torch.no_grad():
        model[0].weight.mul_(3)
    return model, model[0]


def test_the_printed_sparsity_is_that_of_the_weights_and_not_of_the_schedule() -> None:
    learn, cb, seen = learner(), callback(50, verbose=True), []

    class Measures(Spy):
        order = 70

        def before_batch(self) -> None: ...

        def after_epoch(self) -> None:
            seen.append(zeros_pct(cb))

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        learn.fit(8, 1e-2, cbs=[cb, Measures(None)])
    printed = [float(pct) for pct in re.findall(r"Sparsity at the end of epoch \d+: ([\d.]+)%", out.getvalue())]
    assert printed == [round(pct, 2) for pct in seen] and printed[-1] == 50
    assert f"Final Sparsity: {zeros_pct(cb):.2f}%" in out.getvalue()


def test_nothing_pruned_is_never_reported_as_pruned() -> None:
    """The peer prints 50 % where its layer type is in the model nowhere."""
    learn = learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(UserError, match="no layer to prune"):
        learn.fit(4, 1e-2, cbs=callback(50, layer_type=nn.Conv2d))


def test_a_ticket_is_taken_after_pruning_and_not_before() -> None:
    learn, cb = learner(), callback(50, lth=True)
    learn.fit(8, 1e-2, cbs=cb)
    ticket = cb.ticket()
    kept = sum(int(np.count_nonzero(mask)) for mask in ticket.masks.values())
    assert kept == cb.pruner.n_kept < cb.pruner.n_weights
    fresh = ticket.apply(tiny_cnn((1, 8, 8), 10))
    for layer in prunable_layers(fresh):
        assert (layer.weight.detach().numpy()[~ticket.masks[layer.parameter_name]] == 0).all()


def test_dsd_falls_by_exact_counts_and_brings_the_best_back_first() -> None:
    """Best by the score that a weight had when it was removed: since then it is zero."""
    pruner = Pruner(prunable_layers(two_layers()[0]), large_final, regrows=True)
    memory: dict[str, np.ndarray] = {}
    for step, event in enumerate(Schedule(sched_dsd).prunes(12, Fraction(3, 5))):
        before = pruner.in_force
        for layer in pruner.layers:
            generator = torch.Generator().manual_seed(step)
            with torch.no_grad():
                layer.weight.add_(0.1 * torch.randn(layer.weight.shape, generator=generator))
        scores = {layer.parameter_name: layer.weight.detach().abs().numpy().copy() for layer in pruner.layers}
        memory = {n: np.where(before[n], s, memory[n]) if before else s for n, s in scores.items()}
        falls = event.sparsity < pruner.requested_sparsity["0.weight"]
        pruner.prune(event.sparsity)
        for name, mask in pruner.in_force.items():
            assert np.count_nonzero(~mask) == count_zeros(mask.size, event.sparsity)
            if falls and not mask.all():
                returned, still_out = mask & ~before[name], ~mask
                assert not (before[name] & ~mask).any()
                assert memory[name][returned].min() >= memory[name][still_out].max()
    assert pruner.n_kept == pruner.n_weights


@pytest.mark.parametrize("criterion", ["small_final", "small_init", "small_init_small_final", "magnitude_increase"])
def test_negative_scores_are_ranked_together_as_they_are(criterion: str) -> None:
    """The peer shifts each layer by its own minimum: small_final gave 22.9/52.5 % where 76.6/47.5 is true."""
    model, _ = two_layers()
    pruner = Pruner(prunable_layers(model), CRITERIA[criterion], context="global")
    with torch.no_grad():
        for layer in pruner.layers:
            layer.weight.mul_(torch.linspace(0.5, 1.5, layer.weight.numel()).view_as(layer.weight))
    now = torch.cat([layer.weight.detach().flatten() for layer in pruner.layers]).numpy()
    first = torch.cat([pruner.initial[layer.parameter_name].flatten() for layer in pruner.layers]).numpy()
    scores = {
        "small_final": -np.abs(now), "small_init": -np.abs(first), "magnitude_increase": np.abs(now) - np.abs(first),
        "small_init_small_final": -np.maximum(np.abs(now), np.abs(first)),
    }[criterion]  # fmt: skip
    pruner.prune(Fraction(1, 2))
    expected = np.ones(scores.size, bool)
    expected[np.argsort(scores, kind="stable")[: count_zeros(scores.size, Fraction(1, 2))]] = False
    assert (np.concatenate([mask.ravel() for mask in pruner.in_force.values()]) == expected).all()


@pytest.mark.parametrize("context", ["local", "global"])
def test_random_removes_what_was_asked(context: str) -> None:
    """60.4 % for 50 there: the threshold is of other noise than the scores."""
    pruner = Pruner(prunable_layers(two_layers()[0]), CRITERIA["random"], context=context)
    pruner.prune(Fraction(1, 2))
    assert pruner.sparsity_pct == 50


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_global_context_counts_weights_where_groups_differ_in_size(granularity: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 5), nn.Conv2d(24, 30, 1))
    pruner = Pruner(prunable_layers(model), large_final, granularity=granularity, context="global")
    pruner.prune(Fraction(1, 2))
    largest = max(
        int(np.prod([layer.weight.shape[axis] for axis in pruner.axes[layer.parameter_name]]))
        for layer in pruner.layers
    )
    assert abs(pruner.n_kept - pruner.n_weights / 2) <= largest / 2 + 1


def test_what_runs_on_through_a_rewind_is_a_recorded_choice() -> None:
    common: dict[str, Any] = {"dataset": "digits", "model": "lenet_300_100", "epochs": 20}
    runs_on = TrialSpec(**common, schedule="iterative")
    rewound = TrialSpec(**common, schedule="imp")
    nothing = TrialSpec(**common, schedule="iterative", retrain="none")
    assert [spec.retrain for spec in (runs_on, rewound, nothing)] == ["tutorial", "weight_rewinding", "none"]
    assert all("retrain" in spec.canonical() for spec in (runs_on, rewound, nothing))
    assert len({spec.key("data") for spec in (runs_on, nothing)}) == 2


def test_prunes_fall_before_the_first_batch_of_their_epoch() -> None:
    learn, cb = learner(), callback(50, schedule=Schedule(sched_one_shot, start_pct=0.5))
    seen: dict[tuple[int, bool], set[float]] = {}

    def look() -> None:
        if learn.training:
            seen.setdefault((learn.epoch, learn.iter == 0), set()).add(round(zeros_pct(cb), 2))

    learn.fit(4, 1e-2, cbs=[cb, Spy(look)])
    assert all(found == ({50.0} if epoch >= 2 else {0.0}) for (epoch, _), found in seen.items())
    assert {(2, True), (2, False)} <= set(seen)


def test_gradual_schedules_prune_once_an_epoch_and_not_in_every_batch() -> None:
    learn, cb = learner(), callback(50, schedule=Schedule(sched_agp))
    learn.fit(8, 1e-2, cbs=cb)
    assert len(cb.pruner.levels) == len(Schedule(sched_agp).prunes(8, Fraction(1, 2))) <= 8


def test_masks_do_not_vanish_after_the_fit() -> None:
    learn, cb = learner(), callback(50)
    learn.fit(4, 1e-2, cbs=cb)
    learn.fit(2, 1e-2)
    assert all((weight[~mask] == 0).all() for _, weight, mask in masked(cb))
    assert zeros_pct(cb) == 50


def test_no_layer_is_skipped_under_data_parallel() -> None:
    model = tiny_cnn((1, 8, 8), 10)
    plain, wrapped = (Pruner(prunable_layers(m), large_final) for m in (model, nn.DataParallel(model)))
    assert [layer.parameter_name for layer in wrapped.layers] == [layer.parameter_name for layer in plain.layers]
    wrapped.prune(Fraction(1, 2))
    assert all(int((layer.weight == 0).sum()) * 2 == layer.weight.numel() for layer in wrapped.layers)


@pytest.mark.parametrize("percent", [1, 10, 25, 50, 90, 99])
@pytest.mark.parametrize("granularity", ["weight", "filter", "kernel"])
def test_rounding_never_overshoots_by_more_than_half_a_group(granularity: str, percent: int) -> None:
    pruner = Pruner(prunable_layers(tiny_cnn((1, 8, 8), 10)), large_final, granularity=granularity)
    with contextlib.suppress(UserWarning):
        pruner.prune(Fraction(percent, 100))
    for layer in pruner.layers:
        mask = pruner.in_force[layer.parameter_name]
        groups = mask.any(axis=pruner.axes[layer.parameter_name])
        assert abs(np.count_nonzero(~groups) - groups.size * Fraction(percent, 100)) <= Fraction(1, 2)


def test_every_weight_asked_for_goes_and_not_one_fewer() -> None:
    """The peer keeps what ties with its threshold: one weight a layer too many, and all of them in a constant layer."""
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    with torch.no_grad():
        model[1].weight.fill_(0.5)
    pruner = Pruner(prunable_layers(model), large_final)
    pruner.prune(Fraction(1, 2))
    assert pruner.counts == {"0.weight": 50, "1.weight": 50}


def test_a_fit_adds_nothing_to_the_memory_of_the_model() -> None:
    """The peer's buffers make 134.1 MB of ResNet-18's 44.7."""
    learn = learner()
    before = [(name, tensor.shape) for name, tensor in (*learn.model.named_parameters(), *learn.model.named_buffers())]
    seen: list[Any] = []

    def look() -> None:
        seen.append([(n, t.shape) for n, t in (*learn.model.named_parameters(), *learn.model.named_buffers())])

    learn.fit(4, 1e-2, cbs=[callback(50, schedule=Schedule(sched_iterative, start_pct=0.25)), Spy(look)])
    assert all(found == before for found in seen)
