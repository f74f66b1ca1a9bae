"""Copies of the weights in optimisers and callbacks return with them at a rewind."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback
from fastai.optimizer import SGD, Adam, Lamb, Larc, OptimWrapper, QHAdam, RMSProp, ranger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lth_trainable import KeepTicket, Schedule, UserError, find_tickets, sched_one_shot
from lth_trainable.pruning.weight_copies import OptimizerCopies
from tests.support.callback import callback, learner, tensors, zeros_hold

HALF = Schedule(sched_one_shot, start_pct=0.5)
SETTINGS: dict[str, Any] = {"schedule": HALF, "lth": True, "rewind_epoch": 1}


class InState(torch.optim.SGD):
    """A Lookahead as libraries of PyTorch write it: slow weights in the state of the optimiser."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            slow = self.state[p].setdefault("anchor", p.detach().clone())
            slow.lerp_(p.detach(), 0.1)
            p.data.copy_(slow)


class InAttribute(torch.optim.SGD):
    """The same with slow weights in a list beside it, of another name; flat, and in another type."""

    def step(self, closure: Any = None) -> None:
        params = self.param_groups[0]["params"]
        if not hasattr(self, "center"):
            self.center = [torch.cat([p.detach().flatten() for p in params]).double()]
        super().step(closure)
        start = 0
        for p in params:
            part = self.center[0][start : start + p.numel()].view_as(p)
            start += p.numel()
            part.lerp_(p.detach().double(), 0.1)
            p.data.copy_(part)


def slow_of(opt: Any) -> list[Tensor]:
    if isinstance(opt, OptimWrapper):
        inner = opt.opt
        params = inner.param_groups[0]["params"]
        if isinstance(inner, InState):
            return [inner.state[p]["anchor"] for p in params]
        return list(inner.center[0].split([p.numel() for p in params]))
    return [tensor for group in opt.slow_weights for tensor in group]


class AtRewind(Callback):
    """What the optimiser or a callback holds before the first batch after the rewind."""

    order = 90

    def __init__(self, look: Callable[[], list[Tensor]]) -> None:
        self.look = look

    def before_batch(self) -> None:
        if self.learn.training and self.learn.epoch == 2 and self.learn.iter == 0:
            self.seen = [tensor.detach().clone() for tensor in self.look()]


TORCHS = "AdamW", "Adagrad", "RMSprop", "Rprop", "ASGD", "NAdam"
OPTIMIZERS = {
    "ranger": partial(ranger, k=3), "in state": partial(OptimWrapper, opt=InState),
    "in attribute": partial(OptimWrapper, opt=InAttribute),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slow_weights_follow_a_rewind(name: str) -> None:
    learn, cb = learner(opt_func=OPTIMIZERS[name]), callback(80, **SETTINGS)
    look = AtRewind(lambda: slow_of(learn.opt))
    learn.fit(4, 1e-2, cbs=[cb, look])
    expected = [cb.rewind_point.tensors[n] for n, _ in learn.model.named_parameters()]
    assert all(torch.equal(found.view_as(t).float(), t) for found, t in zip(look.seen, expected, strict=True))


def test_ranger_trains_after_a_rewind_as_from_a_checkpoint_of_then() -> None:
    """At a learning rate of zero after the rewind, nothing of the weights before it comes back."""
    learn, cb = learner(opt_func=ranger), callback(80, **SETTINGS)

    class Still(Callback):
        def before_batch(self) -> None:
            if self.learn.epoch >= 2:
                self.learn.opt.set_hyper("lr", 0.0)

    learn.fit(6, 1e-1, cbs=[cb, Still()])
    for layer in cb.pruner.layers:
        mask = torch.from_numpy(cb.pruner.in_force[layer.parameter_name])
        assert torch.equal(layer.weight.detach(), cb.rewind_point.tensors[layer.parameter_name] * mask)


@pytest.mark.parametrize("k", [0, 1])
def test_levels_return_to_the_slow_weights_of_then(k: int) -> None:
    learn, seen = learner(opt_func=partial(ranger, k=3)), []

    class First(Callback):
        order = 90

        def before_batch(self) -> None:
            if self.learn.training and self.learn.epoch == k and self.learn.iter == 0:
                slow = self.learn.opt.slow_weights
                seen.append(None if slow is None else [t.clone() for t in slow_of(self.learn.opt)])

    learn.add_cb(First())
    list(find_tickets(learn, prune_rate=40.0, rewind_epoch=k, levels=1, epochs=2, lr=1e-2))
    if k == 0:
        assert seen == [None, None]
    else:
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("opt_func", [
    SGD, partial(SGD, mom=0.9), Adam, RMSProp, QHAdam, Lamb, Larc,
    partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1)),
    *(partial(OptimWrapper, opt=getattr(torch.optim, name)) for name in TORCHS),
], ids=["SGD", "momentum", "Adam", "RMSProp", "QHAdam", "Lamb", "Larc", "torch-SGD", "torch-AdamW", "torch-Adagrad",
        "torch-RMSprop", "torch-Rprop", "torch-ASGD", "torch-NAdam"])  # fmt: skip
def test_moments_are_no_copies(opt_func: Any) -> None:
    learn = learner(opt_func=opt_func)
    learn.fit(2, 1e-2)
    assert OptimizerCopies(learn.opt, learn.model).copies == []


def test_master_copies_of_a_half_network_follow() -> None:
    """As fastai's to_non_native_fp16 keeps them: the optimiser trains them instead of the network's own weights."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    masters = [nn.Parameter(p.detach().clone().double()) for p in model.parameters()]
    for optimizer in (SGD([masters], lr=0.1), OptimWrapper(opt=torch.optim.SGD(masters, lr=0.1))):
        copies = OptimizerCopies(optimizer, model)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(0.5)
        copies.follow()
        assert all(bool((m == 0.5).all()) for m in masters)
        with torch.no_grad():
            for p, m in zip(model.parameters(), masters, strict=True):
                m.copy_(p.normal_())


def test_a_ticket_starts_without_slow_weights_of_before() -> None:
    learn = learner()
    learn.sparsify(80)
    ticket, again = learn.sparsify_callback.ticket(), learner(opt_func=ranger)
    again.fit(1, 1e-2)
    assert again.opt.slow_weights is not None
    again.fit(1, 0.0, wd=0, cbs=KeepTicket(ticket))
    assert torch.equal(again.model[9].weight, ticket.initial["9.weight"])


# -- callbacks --------------------------------------------------------------------------------------------------------


class Average(Callback):
    """A moving average of the network, from epoch `start` on. kind: how it is held."""

    order = 70

    def __init__(self, kind: str, start: int = 0) -> None:
        self.kind, self.start, self.held = kind, start, None

    def tensors(self) -> list[Tensor]:
        if isinstance(self.held, AveragedModel):
            return [*self.held.module.parameters(), self.held.n_averaged]
        return list((self.held if isinstance(self.held, dict) else vars(self.held)["shadow"]).values())

    def before_batch(self) -> None:
        if self.held is not None or self.learn.epoch < self.start:
            return
        shadow = {name: p.detach().clone() for name, p in self.learn.model.named_parameters()}
        self.held = {"averaged": AveragedModel(self.learn.model), "dict": shadow, "object": Shadow(shadow)}[self.kind]

    def after_step(self) -> None:
        if isinstance(self.held, AveragedModel):
            self.held.update_parameters(self.learn.model)
        elif self.held is not None:
            for average, p in zip(self.tensors(), self.learn.model.parameters(), strict=True):
                average.lerp_(p.detach(), 0.1)


class Shadow:
    def __init__(self, shadow: dict[str, Tensor]) -> None:
        self.shadow = shadow


@pytest.mark.parametrize("kind", ["averaged", "dict", "object"])
def test_an_average_of_a_callback_returns_to_what_it_was(kind: str) -> None:
    average, there = Average(kind), []

    class Then(Callback):
        order = 4  # before the callback saves the rewind point

        def before_train(self) -> None:
            if self.learn.epoch == 1:
                there.extend(tensor.detach().clone() for tensor in average.tensors())

    look = AtRewind(average.tensors)
    learner().fit(4, 1e-2, cbs=[callback(80, **SETTINGS), average, Then(), look])
    assert there and all(torch.equal(a, b) for a, b in zip(look.seen, there, strict=True))


def test_an_average_that_began_after_the_rewind_epoch_is_refused() -> None:
    with pytest.raises(UserError, match=r"rewind: found a copy of the weights in Average\.held that began after"):
        learner().fit(6, 1e-3, cbs=[callback(80, **SETTINGS), Average("averaged", start=2)])
    learner().fit(6, 1e-3, cbs=[callback(80, **SETTINGS), Average("averaged", start=4)])


@pytest.mark.parametrize("kind", ["averaged", "dict", "object"])
def test_the_average_of_a_fit_is_masked_when_it_is_loaded_at_its_end(kind: str) -> None:
    class Loads(Average):
        order = 62

        def after_fit(self) -> None:
            for average, p in zip(self.tensors(), self.learn.model.parameters(), strict=False):
                p.data.copy_(average)

    learn, cb = learner(), callback(80, schedule=HALF)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learn.fit(2, 1e-2, cbs=[cb, Loads(kind)])
    assert zeros_hold(cb) and learn.keep_mask.is_independent


def test_a_teacher_stays_as_it_is() -> None:
    class Teacher(Callback):
        def before_fit(self) -> None:
            self.teacher = copy.deepcopy(self.learn.model)

    cb, teacher = callback(80, **SETTINGS), Teacher()
    learn = learner()
    before = tensors(learn.model)
    learn.fit(4, 1e-2, cbs=[cb, teacher])
    assert all(torch.equal(t, before[name]) for name, t in tensors(teacher.teacher).items())


class Unread:
    """A loader that nobody may go through but its owner: that would draw from streams and start processes."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        raise AssertionError("somebody goes through a loader")


def test_loaders_that_a_callback_holds_are_not_gone_through() -> None:
    class Holder(Callback):
        def __init__(self) -> None:
            self.loaders, self.by_name, self.one = [Unread()], {"valid": Unread()}, Unread()

    learn, cb = learner(), callback(50, **SETTINGS)
    learn.fit(4, 1e-2, cbs=[cb, Holder()])
    assert zeros_hold(cb)
