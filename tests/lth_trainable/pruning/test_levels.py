"""Pruning by levels in a notebook: `find_tickets`, a callback with `Levels`, `learn.sparsify`; trials do the same."""

from __future__ import annotations

import copy
import pickle
import re
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import fit_one_cycle  # noqa: F401 (a method of Learner)
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from torch import nn

from lth_trainable import Levels, SparsifyCallback, TrialSpec, UserError, find_tickets, run_trial
from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.loaders import resident_loaders
from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.pruning.levels import rungs
from lth_trainable.seeds import derive_seed
from lth_trainable.spec.segments import segments
from lth_trainable.store.states import States
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.trial import Trial
from tests.support import callback as support
from tests.support.callback import silent, tensors

FIT: dict[str, Any] = {"epochs": 3, "lr": 1e-2}
RATE, LEVELS = 40.0, 2


def network(shape: tuple[int, int, int] = (1, 8, 8), n_classes: int = 10) -> nn.Sequential:
    """Without dropout, whose random stream a notebook's own code would have to rewind."""
    convolutions = nn.Conv2d(shape[0], 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes))


def learner(**settings: Any) -> Learner:
    torch.manual_seed(0)
    return support.learner(network(), **settings)


def counts(masks: Any) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def exact_counts(model: nn.Module, level: int, rate: float = RATE) -> dict[str, int]:
    """floor(n (1 - s) + 1/2 rounded as in a trial: zeros are floor(n s + 1/2)), for the convolutions."""
    sparsity = 1 - (1 - Fraction(str(rate)) / 100) ** level
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.ndim == 4}
    return {name: n - int(n * sparsity + Fraction(1, 2)) for name, n in sizes.items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Watch(Callback):
    """Copies of network, optimiser and batch at the first step of each fit."""

    order = 90

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before_fit(self) -> None:
        self.fresh = True

    def before_batch(self) -> None:
        if self.learn.training and self.fresh:
            self.fresh = False
            optimizer = copy.deepcopy(self.learn.opt.state_dict())
            self.seen.append((self.learn.epoch, tensors(self.learn.model), optimizer, self.learn.xb[0].clone()))


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_each_level_has_exact_counts_nested_masks_and_its_metrics() -> None:
    learn = learner(metrics=accuracy)
    found = list(find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT))
    assert [level.level for level in found] == [0, 1, 2]
    for level in found:
        assert counts(level.ticket.masks) == exact_counts(learn.model, level.level)
        zeros = sum(int((level.ticket.final[n] == 0).sum()) for n in level.ticket.masks)
        n_weights = sum(mask.size for mask in level.ticket.masks.values())
        assert level.sparsity == 100 * zeros / n_weights and f"{level.sparsity:.2f} % sparse" in repr(level)
        assert set(level.metrics) == {"train_loss", "valid_loss", "accuracy", "sparsity"}
        assert level.metrics["sparsity"] == level.sparsity
    for before, after in pairwise(found):
        assert all(not (after.ticket.masks[n] & ~before.ticket.masks[n]).any() for n in after.ticket.masks)
    assert all(np.array_equal(found[2].ticket.initial[n], found[0].ticket.initial[n]) for n in found[0].ticket.initial)
    assert same(tensors(learn.model), {n: found[-1].ticket.final[n] for n in tensors(learn.model)})


@pytest.mark.parametrize("k", [0, 1])
def test_a_rewind_returns_weights_buffers_optimiser_and_order(k: int) -> None:
    learn, watch = learner(), Watch()
    learn.add_cb(watch)
    dense = learner()
    dense_watch = Watch()
    dense.fit(k, 1e-2) if k else None
    dense.fit(k + 1, 1e-2, start_epoch=k, cbs=dense_watch)
    list(find_tickets(learn, prune_rate=RATE, rewind_epoch=k, levels=LEVELS, **FIT))
    (_, there, optimizer, batch), masks = dense_watch.seen[0], learn.sparsify_callback.pruner.levels
    assert [epoch for epoch, *_ in watch.seen] == [0, k, k]
    for level in (1, 2):
        _, weights, moments, x = watch.seen[level]
        for name, tensor in there.items():
            mask = masks[level - 1].get(name)
            assert torch.equal(weights[name], tensor if mask is None else tensor * torch.from_numpy(mask)), name
        assert torch.equal(x, batch), "the order of the data is that of the dense network"
        for ours, theirs in zip(moments["state"], optimizer["state"], strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(torch.as_tensor(ours[n]), torch.as_tensor(theirs[n])) for n in ours)


def test_a_loop_that_is_left_leaves_a_sparse_network_and_goes_on_later() -> None:
    whole = learner()
    reference = list(find_tickets(whole, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT))
    learn = learner()
    for level in find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT):
        if level.level == 1:
            break
    assert learn.sparsity == reference[1].sparsity
    before = copy.deepcopy(learn)
    before.fit(1, 1e-1)
    assert before.sparsity == reference[1].sparsity, "the zeros stay in a later fit"
    (last,) = find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT)
    assert last.level == 2 and same(tensors(learn.model), tensors(whole.model))
    with pytest.raises(UserError, match="levels: found 2, all trained already"):
        find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT)
    with pytest.raises(UserError, match=r"prune_rate: found 20\.0; expected 40\.0, as in the levels"):
        find_tickets(learn, prune_rate=20.0, rewind_epoch=1, levels=LEVELS, **FIT)
    deeper = find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=LEVELS + 1, **FIT)
    assert [level.level for level in deeper] == [3]
    learn.sparsify_callback.release()
    first = next(find_tickets(learn, prune_rate=20.0, levels=1, **FIT))
    assert first.level == 0 and first.sparsity < 5, "it starts anew, and the zeros are free"


def test_a_network_that_is_masked_already_is_refused() -> None:
    learn = learner()
    learn.sparsify(50)
    release = r"learn\.sparsify_callback\.release\(\)"
    with pytest.raises(UserError, match=rf"'50\.\d+ % masked'; expected a dense one; .*: {release}"):
        find_tickets(learn)
    with pytest.raises(UserError, match=r"unless learn\.sparsify_callback\.release\(\) lets the zeros go"):
        learn.sparsify(40)
    learn.sparsify_callback.release()
    assert next(find_tickets(learn, epochs=1, levels=1)).level == 0


def test_a_mask_whose_callback_has_left_the_learner_is_released_by_the_callback_or_the_learner() -> None:
    for release in ("callback.release()", "learn.remove_cb(learn.keep_mask)"):
        learn = learner()
        callback = learn.sparsify(50)
        learn.remove_cb(callback)
        with pytest.raises(UserError, match=re.escape(release)):
            find_tickets(learn)
        exec(release)
        assert learn.sparsify(40).sparsity == 40


class Breaks(Callback):
    order = 80

    def __init__(self, fit: int) -> None:
        self.fits, self.fit = -1, fit

    def before_fit(self) -> None:
        self.fits += 1

    def after_train(self) -> None:
        if self.fits == self.fit and self.learn.epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("fit", [0, 1])
def test_an_interrupted_level_is_trained_again_from_its_start(fit: int) -> None:
    whole, learn = learner(), learner()
    list(find_tickets(whole, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT))
    breaks = Breaks(fit)
    learn.add_cb(breaks)
    with pytest.raises(KeyboardInterrupt):
        list(find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT))
    left = list(find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT))
    assert [level.level for level in left] == [0, 1, 2][fit:]
    assert same(tensors(learn.model), tensors(whole.model))


def test_its_state_continues_in_another_process() -> None:
    settings = {"prune_rate": RATE, "rewind_epoch": 1, "levels": LEVELS, **FIT}
    whole, learn = learner(), learner()
    list(find_tickets(whole, **settings))
    for level in find_tickets(learn, **settings):
        if level.level == 1:
            break
    state = pickle.dumps([learn.model.state_dict(), learn.opt.state_dict(), learn.sparsify_callback.state_dict()])
    model, optimizer, found = pickle.loads(state)
    again = learner()
    again.create_opt()
    again.model.load_state_dict(model)
    again.opt.load_state_dict(optimizer)
    callback = SparsifyCallback(64, "weight", "local", "large_final", Levels(prune_rate=RATE), rewind_epoch=1)
    callback.load_state_dict(found)
    again.add_cb(callback)
    assert [level.level for level in find_tickets(again, **settings)] == [2]
    assert same(tensors(again.model), tensors(whole.model))
    pickled = pickle.loads(pickle.dumps(learn))
    assert [level.level for level in find_tickets(pickled, **settings)] == [2]
    assert same(tensors(pickled.model), tensors(whole.model))


def test_any_fit_trains_a_level() -> None:
    learn = learner()
    fit = partial(learn.fit_one_cycle, lr_max=1e-2)
    found = list(find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=1, epochs=3, fit=fit))
    assert [counts(level.ticket.masks) for level in found] == [exact_counts(learn.model, n) for n in (0, 1)]


@pytest.mark.parametrize(("settings", "message"), [
    ({"prune_rate": 0.2}, "prune_rate: found 0.2; .* did you mean 20"),
    ({"prune_rate": 100}, "prune_rate: found 100"),
    ({"rewind_epoch": 20}, "rewind_epoch: found 20; expected less than epochs"),
    ({"rewind_epoch": -1}, "rewind_epoch: found -1"),
    ({"levels": 0}, "levels: found 0"), ({"levels": True}, "levels: found True"), ({"epochs": 0}, "epochs: found 0"),
    ({"criteria": "largest"}, "criteria: found 'largest'"),
    ({"lr": 1, "fit": print}, "lr: found 1; expected None beside fit"),
])  # fmt: skip
def test_a_mistake_is_told_before_anything_is_trained(settings: dict[str, Any], message: str) -> None:
    learn = learner()
    before = tensors(learn.model)
    with pytest.raises(UserError, match=message):
        find_tickets(learn, **settings)
    assert same(tensors(learn.model), before) and not hasattr(learn, "sparsify_callback")


# -- the callback with Levels -----------------------------------------------------------------------------------------


def test_a_callback_with_levels_prunes_between_fits() -> None:
    loop, learn = learner(), learner()
    list(find_tickets(loop, prune_rate=RATE, rewind_epoch=1, levels=LEVELS, **FIT))
    callback = SparsifyCallback(
        60, "weight", "local", "large_final", Levels(prune_rate=RATE), rewind_epoch=1, verbose=False
    )
    learn.fit(3, 1e-2, cbs=callback)
    while callback.next_level():
        learn.fit(3, 1e-2, start_epoch=1, cbs=callback)
    assert callback.level == 2, "60 % is between two levels and means the next one, 64 %"
    assert same(tensors(learn.model), tensors(loop.model)) and len(learn.cbs) == len(learner().cbs) + 1
    learn.validate()
    assert callback.level == 2 and callback.levels_trained == 3
    short = SparsifyCallback(60, "weight", "local", "large_final", Levels(), rewind_epoch=5, verbose=False)
    with pytest.raises(UserError, match="trained nothing yet"):
        short.next_level()
    learn.fit(1, 1e-2, cbs=short)
    with pytest.raises(UserError, match="the fit ended before epoch 5"):
        short.next_level()


def test_levels_speak_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    learn = learner()
    list(find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=1, epochs=2, lr=1e-2, verbose=True))
    printed = capsys.readouterr().out
    for line in (
        "Pruning of weight until a sparsity of 40%", "Saving Weights at epoch 1", "Level 1: pruned to 40",
        "Resetting Weights to their epoch 1 values", "Sparsity at the end of epoch 1: 40",
    ):  # fmt: skip
        assert line in printed


# -- a trial is the same code -----------------------------------------------------------------------------------------


def trial_of(spec: TrialSpec) -> Trial:
    return Trial(spec, load_dataset(spec.dataset), Execution(), None)


@pytest.mark.parametrize("spec", [
    {"control": "dense"}, {"target_sparsity_pct": 64.0}, {"schedule": "omp"}, {"schedule": "agp"},
    {"schedule": "iterative", "control": "reinit"}, {"control": "dense_restarts", "schedule": "one_shot"},
], ids=lambda spec: "-".join(map(str, spec.values())))  # fmt: skip
def test_every_trials_learner_has_the_callback(spec: dict[str, Any]) -> None:
    trial = trial_of(TrialSpec(**spec, batch_size=600))
    callback = trial.learn.sparsify_callback
    assert isinstance(callback, SparsifyCallback) and callback in trial.learn.cbs
    assert callback.sparsity == (0 if trial.spec.is_dense else trial.spec.target_sparsity_pct)
    trial.learn.fit(20)
    assert [type(cb) for cb in trial.learn.cbs].count(KeepMask) == 1


def test_the_three_lines_have_the_bytes_of_a_trial(tmp_path: Any) -> None:
    """A script as a user would write it, without a trial's clock: same seeds, same order, no dropout."""
    spec = TrialSpec(
        model=f"{__name__}:network", batch_size=230, epochs=4, lr=0.01, target_sparsity_pct=64, rewind_epoch=1,
        prune_rate_pct=RATE, seed=3,
    )  # fmt: skip
    data, store = load_dataset("digits"), Store(tmp_path)
    record = run_trial(spec, store)

    torch.manual_seed(derive_seed(3, "init"))
    model = network(data.shape, 10)
    adam = partial(torch.optim.AdamW, fused=True, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    learn = Learner(
        resident_loaders(data, batch_size=230, order_seed=3), model, nn.CrossEntropyLoss(),
        partial(OptimWrapper, opt=adam), train_bn=False, wd_bn_bias=True, metrics=accuracy,
    )  # fmt: skip
    learn.logger, learn.create_mbar = silent, False
    found = list(find_tickets(learn, prune_rate=RATE, rewind_epoch=1, levels=2, epochs=4, lr=0.01))

    states, chain = States(store, fingerprint(Execution())), segments(spec, data.digest, 5)
    states.refresh({segment.key for segment in chain})
    initial = trial_of(spec).initial
    final = states.load(chain[-1].key, initial, optimizer=False)
    assert final is not None and same(tensors(learn.model), final.snapshot.tensors)
    assert [counts(masks) for masks in final.memory.levels] == [counts(level.ticket.masks) for level in found[1:]]
    for ours, theirs in zip(found[1:], final.memory.levels, strict=True):
        assert all(np.array_equal(ours.ticket.masks[name], theirs[name]) for name in theirs)
    assert record["status"] == "done"
    last = [row for row in record["epochs"] if row["level"] == 2][-1]
    assert found[2].metrics["accuracy"] == pytest.approx(last["valid_accuracy"], abs=1e-6)


def test_levels_and_trials_have_the_same_sparsities() -> None:
    for rate, target in ((20.0, 67.0), (40.0, 92.0), (10.0, 50.0)):
        spec = TrialSpec(prune_rate_pct=rate, target_sparsity_pct=target)
        assert Levels(prune_rate=rate).sparsities(target) == spec.level_sparsities
    assert Levels(prune_rate=50, n_levels=30).sparsities(99.99) == rungs(50, 30)


# -- learn.sparsify and learn.sparsity --------------------------------------------------------------------------------


@pytest.mark.parametrize("fitted", [False, True])
def test_sparsify_prunes_at_once_with_exact_counts(fitted: bool) -> None:
    learn = learner()
    if fitted:
        learn.fit(1, 1e-2)
    before = tensors(learn.model)
    assert learn.sparsity == 0
    callback = learn.sparsify(80)
    assert callback is learn.sparsify_callback and counts(callback.pruner.in_force) == exact_counts(
        learn.model, 1, 80.0
    )
    zeros, n = sum(v.size - v.sum() for v in callback.pruner.in_force.values()), callback.pruner.n_weights
    assert learn.sparsity == 100 * zeros / n
    for name, mask in callback.pruner.in_force.items():
        kept, old = learn.model.get_parameter(name).detach(), before[name]
        assert torch.equal(kept, old * torch.from_numpy(mask))
        assert old[torch.from_numpy(mask)].abs().min() >= old[~torch.from_numpy(mask)].abs().max()
    learn.fit(1, 1e-1)
    assert learn.sparsity == 100 * zeros / n
    assert counts(callback.ticket().masks) == counts(callback.pruner.in_force)
    more = learn.sparsify(90, criteria="movement", context="global")
    assert learn.sparsity > 89 and all(
        not (m & ~callback.pruner.in_force[k]).any() for k, m in more.pruner.in_force.items()
    )
    more.release()
    learn.fit(1, 1e-1)
    assert learn.sparsity < 5


def test_sparsify_takes_layers_and_a_target_for_each() -> None:
    learn = learner()
    learn.sparsify({"0": 30, "3": 60})
    assert learn.sparsify_callback.pruner.sparsity_pct == learn.sparsity
    linear = learner()
    linear.sparsify(50, layer_type=nn.Linear)
    assert linear.sparsity == 50 and all((p != 0).all() for p in linear.model.parameters() if p.ndim == 4)


@pytest.mark.parametrize(("asked", "message"), [
    ((0.8,), "the unit is percent: did you mean 80"), ((0,), "0 is the dense network"),
    ((100,), "no weight would be left"),
    ((80, "filters"), "granularity: found 'filters'"), (({"9": 50},), "sparsity of a layer: found '9'"),
])  # fmt: skip
def test_sparsify_refuses_before_it_changes_anything(asked: tuple[Any, ...], message: str) -> None:
    learn = learner()
    learn.sparsify(50)
    before, callback = tensors(learn.model), learn.sparsify_callback
    with pytest.raises(UserError, match=message):
        learn.sparsify(*asked)
    with pytest.raises(UserError, match=r"more than the 50\.\d+ % of the mask in force"):
        learn.sparsify(40)
    with pytest.raises(UserError, match="those of the mask in force"):
        learn.sparsify(60, layer_type=nn.Linear)
    assert same(tensors(learn.model), before) and learn.sparsify_callback is callback
