"""A ticket is trained in a new learner, and its zeros stay."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.hook import summary  # noqa: F401 (a method of Learner)
from fastai.callback.schedule import fine_tune  # noqa: F401 (a method of Learner)
from fastai.learner import Learner
from fastai.optimizer import Adam
from torch import nn

from lth_trainable import (
    KeepTicket,
    Schedule,
    Ticket,
    UserError,
    find_tickets,
    load_ticket,
    save_ticket,
    sched_one_shot,
)
from lth_trainable.pruning.keep_mask import KeepMask
from tests.plugins import tiny_cnn
from tests.support.callback import callback, learner, tensors, zeros_hold

HALF = Schedule(sched_one_shot, start_pct=0.5)


@pytest.fixture(scope="module")
def trained() -> tuple[Learner, Ticket]:
    learn, cb = learner(), callback(80, schedule=HALF, lth=True, rewind_epoch=1)
    learn.fit(4, 1e-2, cbs=cb)
    return learn, cb.ticket()


@pytest.fixture
def ticket(trained: tuple[Learner, Ticket]) -> Ticket:
    return trained[1]


def fresh(**settings: Any) -> Learner:
    torch.manual_seed(9)
    return learner(tiny_cnn((1, 8, 8), 10), **settings)


def masked(learn: Learner, ticket: Ticket) -> bool:
    kept = {name: torch.from_numpy(mask) for name, mask in ticket.masks.items()}
    weights = {name: learn.model.get_parameter(name) for name in kept}
    return all(bool((w[~kept[n]] == 0).all()) and bool((w[kept[n]] != 0).any()) for n, w in weights.items())


class Start(KeepTicket):
    """Remembers the weights with which the first fit starts."""

    seen: dict[str, torch.Tensor]

    def before_batch(self) -> None:
        if not hasattr(self, "seen"):
            self.seen = tensors(self.learn.model)


def test_a_new_learner_trains_the_ticket_from_a_file(ticket: Ticket, tmp_path: Path) -> None:
    for given in (ticket, str(save_ticket(ticket, tmp_path / "t.safetensors")), tmp_path / "t.safetensors"):
        learn, keep = fresh(), Start(given)
        learn.fit(2, 1e-1, wd=0.1, cbs=keep)
        assert masked(learn, ticket) and learn.sparsity == pytest.approx(80, abs=0.1)
        for name, tensor in ticket.rewind.items():
            mask = ticket.masks.get(name)
            assert torch.equal(keep.seen[name], tensor if mask is None else tensor * torch.from_numpy(mask)), name
        learn.fit(1, 1e-1)
        assert masked(learn, ticket), "the zeros stay in later fits"
        learn.remove_cb(learn.keep_mask)
        learn.fit(1, 1e-1)
        assert not masked(learn, ticket)


@pytest.mark.parametrize("weights", ["initial", "rewind", "final", "present"])
def test_it_starts_from_the_weights_that_are_asked_for(ticket: Ticket, weights: str) -> None:
    learn = fresh()
    there = learn.model.state_dict() if weights == "present" else getattr(ticket, weights)
    there = {name: tensor.clone() for name, tensor in there.items()}
    learn.fit(1, 1e-2, cbs=(keep := Start(ticket, weights=weights)))
    for name, tensor in there.items():
        mask = ticket.masks.get(name)
        assert torch.equal(keep.seen[name], tensor if mask is None else tensor * torch.from_numpy(mask)), name


def test_a_ticket_that_was_never_rewound_starts_from_its_initial_weights() -> None:
    learn = learner()
    initial = tensors(learn.model)
    learn.sparsify(80)
    found = learn.sparsify_callback.ticket()
    again = fresh()
    again.fit(1, 1e-2, cbs=(keep := Start(found)))
    assert masked(again, found) and torch.equal(keep.seen["9.weight"], initial["9.weight"])


@pytest.mark.parametrize("kind", [bool, np.float32, torch.tensor], ids=["bool", "float", "tensor"])
def test_masks_alone_leave_the_weights(ticket: Ticket, kind: Any) -> None:
    learn = fresh()
    before = tensors(learn.model)
    masks = {n: torch.from_numpy(m) if kind is torch.tensor else m.astype(kind) for n, m in ticket.masks.items()}
    learn.fit(1, 1e-2, cbs=(keep := Start(masks)))
    assert masked(learn, ticket) and torch.equal(keep.seen["9.weight"], before["9.weight"])


def test_a_saved_network_is_trained_on_in_a_new_learner(trained: tuple[Learner, Ticket], tmp_path: Path) -> None:
    first, ticket = trained
    torch.save(first.model.state_dict(), tmp_path / "sparse.pth")
    learn = fresh(path=tmp_path, model_dir=".")
    with pytest.warns(UserWarning, match=r"has 389 zeros of [\d,]+ weights.*fit with cbs=KeepTicket\(\)"):
        learn.load("sparse", with_opt=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learn.fit(1, 1e-1, cbs=KeepTicket())
        learn.load("sparse", with_opt=False)
    assert masked(learn, ticket) and learn.keep_mask.is_independent
    applied = fresh()
    ticket.apply(applied.model)
    applied.fit(1, 1e-1, cbs=KeepTicket())
    assert masked(applied, ticket)


def test_a_dense_network_is_loaded_in_silence_and_has_no_zeros_to_keep(tmp_path: Path) -> None:
    learn = fresh(path=tmp_path, model_dir=".")
    learn.save("dense")
    before = tensors(learn.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learn.load("dense", with_opt=False)
    with pytest.raises(UserError, match="found no weight of zero in the network"):
        learn.fit(1, cbs=KeepTicket())
    assert all(torch.equal(t, before[name]) for name, t in tensors(learn.model).items())


def test_fine_tune_and_a_second_fit_go_on(ticket: Ticket) -> None:
    learn, keep = fresh(opt_func=Adam), KeepTicket(ticket)
    learn.fit(1, 1e-2, cbs=keep)
    before = tensors(learn.model)
    learn.fit(1, 0.0, wd=0, cbs=keep)
    names = [name for name, _ in learn.model.named_parameters()]
    assert all(torch.equal(tensors(learn.model)[name], before[name]) for name in names), "it did not start again"
    assert sum(isinstance(cb, KeepMask) for cb in learn.cbs) == 1
    learn.model.load_state_dict(tiny_cnn((1, 8, 8), 10).state_dict())
    learn.fit(1, 0.0, wd=0, cbs=keep)
    assert masked(learn, ticket) and torch.equal(learn.model[9].weight, ticket.rewind["9.weight"])
    fine = fresh()
    fine.fine_tune(1, 1e-2, cbs=KeepTicket(ticket))
    assert masked(fine, ticket)


def test_a_sparsify_callback_in_the_same_fit_prunes_the_ticket_further(ticket: Ticket) -> None:
    learn, keep, more = fresh(), KeepTicket(ticket), callback(90, schedule=HALF)
    learn.fit(2, 1e-2, cbs=[more, keep])
    assert masked(learn, ticket) and zeros_hold(more) and learn.sparsity == pytest.approx(90, abs=0.2)
    before = tensors(learn.model)
    learn.fit(1, 0.0, wd=0, cbs=keep)
    assert torch.equal(learn.model[9].weight, before["9.weight"]) and zeros_hold(more)


def test_a_callback_for_more_layers_keeps_what_the_mask_removes(ticket: Ticket) -> None:
    learn, more = fresh(), callback(90, schedule=HALF)
    learn.fit(2, 1e-2, cbs=[KeepTicket({"0.weight": ticket.masks["0.weight"]}), more])
    assert not (more.pruner.in_force["0.weight"] & ~ticket.masks["0.weight"]).any() and zeros_hold(more)


def test_a_level_of_find_tickets_is_a_ticket() -> None:
    level = list(find_tickets(learner(), prune_rate=40.0, levels=1, epochs=1, lr=1e-2))[1]
    learn = fresh()
    learn.fit(1, 1e-1, cbs=KeepTicket(level.ticket))
    assert masked(learn, level.ticket)


def test_looking_at_a_network_leaves_the_ticket_for_the_fit(ticket: Ticket) -> None:
    learn = fresh()
    learn.add_cb(KeepTicket(ticket))
    before = tensors(learn.model)
    learn.validate(), learn.get_preds(), learn.summary()
    assert all(torch.equal(t, before[name]) for name, t in tensors(learn.model).items())
    learn.fit(1, 1e-2)
    assert masked(learn, ticket)


@pytest.mark.parametrize(("other", "message"), [
    (lambda: tiny_cnn((1, 8, 8), 7), r"weights of another network: 9\.weight is 10x8 in the ticket and 7x8 in the"),
    (lambda: tiny_cnn((3, 8, 8), 10), r"masks of another network: 0\.weight is 6x1x3x3 in the ticket and 6x3x3x3"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), r"0\.weight is 6x1x3x3 in the ticket and missing in"),
], ids=["classes", "channels", "another network"])  # fmt: skip
def test_a_network_that_the_ticket_does_not_fit_is_refused(ticket: Ticket, other: Any, message: str) -> None:
    model = other()
    before = tensors(model)
    learn = learner(model)
    for attempt in (lambda: learn.fit(1, cbs=KeepTicket(ticket)), lambda: ticket.apply(model)):
        with pytest.raises(UserError, match=message):
            attempt()
    assert all(torch.equal(t, before[name]) for name, t in tensors(model).items())


@pytest.mark.parametrize(("given", "message"), [
    ((5,), "ticket: found 'int'; expected a ticket, the path of one"), (({},), "at least one"),
    (({"0.weight": np.full((6, 1, 3, 3), 0.5)},), r"mask of 0\.weight: found 'values of float64'; expected True and"),
    (("nowhere.safetensors",), "cannot be read as a ticket"),
    (({"0.weight": np.ones((6, 1, 3, 3))}, "final"), "weights: found 'final'; expected 'present' where there"),
], ids=["number", "empty", "fractions", "no file", "weights of masks"])  # fmt: skip
def test_what_is_no_ticket_is_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        KeepTicket(*given)


def test_weights_that_a_ticket_lacks_are_refused(ticket: Ticket, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights: found 'last'; expected one of initial, rewind, final, present"):
        KeepTicket(ticket, weights="last")
    bare = Ticket(masks=ticket.masks, initial=ticket.initial, rewind={}, final={})
    path = save_ticket(bare, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="found no final weights; it has initial"):
        KeepTicket(path, weights="final")
    assert load_ticket(path).final == {}
