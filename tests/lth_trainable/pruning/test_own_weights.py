"""A mask belongs to weights and not to a learner; looking at a network leaves no trace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.callback import schedule as _lr_find  # noqa: F401 (a method of Learner)
from fastai.callback.core import Callback
from fastai.callback.hook import summary  # noqa: F401 (a method of Learner)
from fastai.callback.progress import ProgressCallback  # noqa: F401
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation, ShortEpochCallback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn

from lth_trainable import Levels, Schedule, SparsifyCallback, UserError, find_tickets, sched_one_shot
from lth_trainable.pruning.keep_mask import KeepMask
from tests.plugins import tiny_cnn
from tests.support.callback import callback, learner, tensors, zeros_hold

ENDED = r"the mask \(80\.04 % sparse\) has ended: the weights of 2 of its 2 layers \(0, 4\)"
LEVELS: dict[str, Any] = {"prune_rate": 40.0, "levels": 1, "epochs": 2, "lr": 1e-2}


def dense() -> nn.Module:
    """Another network of the same shapes."""
    torch.manual_seed(7)
    return tiny_cnn((1, 8, 8), 10)


def load(learn: Learner) -> None:
    learn.model.load_state_dict(dense().state_dict())


def load_file(learn: Learner) -> None:
    torch.save(dense().state_dict(), learn.path / learn.model_dir / "dense.pth")
    learn.load("dense", with_opt=False)


def assign(learn: Learner) -> None:
    learn.model.load_state_dict(dense().state_dict(), assign=True)


def other_model(learn: Learner) -> None:
    learn.model, learn.opt = dense(), None


def initialise(learn: Learner) -> None:
    learn.model.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)


def by_hand(learn: Learner) -> None:
    for module in (learn.model[0], learn.model[4]):
        module.weight.data.fill_(0.5)


REPLACE = [load, load_file, assign, other_model, initialise, by_hand]
named = pytest.mark.parametrize("replace", REPLACE, ids=lambda function: function.__name__)


def one_prune(**settings: Any) -> SparsifyCallback:
    return callback(80, schedule=Schedule(sched_one_shot, start_pct=0.5), lth=True, **settings)


def pruned(path: Path | None = None) -> tuple[Learner, SparsifyCallback]:
    learn, cb = learner(metrics=accuracy, path=path), one_prune()
    if path is not None:
        (path / learn.model_dir).mkdir()
    learn.fit(2, 1e-2, cbs=cb)
    return learn, cb


def zeros(model: nn.Module) -> int:
    return sum(int((model.get_parameter(name) == 0).sum()) for name in ("0.weight", "4.weight"))


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def keepers(learn: Learner) -> int:
    return sum(isinstance(cb, KeepMask) for cb in learn.cbs)


# -- what replaces the weights ends the mask --------------------------------------------------------------------------


@named
def test_a_mask_ends_with_its_weights_and_says_so(replace: Callable[[Learner], None], tmp_path: Path) -> None:
    learn, _ = pruned(tmp_path)
    replace(learn)
    before = tensors(learn.model)
    assert learn.sparsity == 0, "counted in the weights that are there"
    learn.validate(), learn.get_preds(), learn.lr_find(num_it=8, show_plot=False)
    assert same(tensors(learn.model), before), "nothing but a fit changes weights"
    with pytest.warns(UserWarning, match=ENDED + r".*No weight was changed.*KeepTicket\(ticket\)"):
        learn.fit(1, 1e-9, wd=0)
    assert zeros(learn.model) == 0 and keepers(learn) == 0 and learn.sparsity == 0


@named
def test_a_new_callback_prunes_the_new_weights_from_the_start(
    replace: Callable[[Learner], None], tmp_path: Path
) -> None:
    learn, _ = pruned(tmp_path)
    replace(learn)
    new = callback(50, schedule=Schedule(sched_one_shot, start_pct=0.5))
    with pytest.warns(UserWarning, match=ENDED):
        learn.fit(2, 1e-2, cbs=new)
    assert new.pruner.sparsity_pct == 50 and zeros_hold(new) and zeros(learn.model) == 243
    initialise(learn)
    with pytest.warns(UserWarning, match="has ended"):
        assert learn.sparsify(30).pruner.sparsity_pct < 31, "an ended mask does not forbid a lower sparsity"


def test_weights_that_have_the_zeros_keep_the_mask(tmp_path: Path) -> None:
    learn, cb = pruned(tmp_path)
    learn.save("sparse")
    learn.fit(1, 1e-1)
    learn.load("sparse")
    learn.model = nn.DataParallel(learn.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learn.fit(1, 1e-1)
    assert zeros_hold(cb) and learn.keep_mask.has_own_weights and learn.sparsity == pytest.approx(80, abs=0.1)


def test_the_checkpoint_of_another_fit_is_not_masked_and_that_of_this_fit_is(tmp_path: Path) -> None:
    stale = SaveModelCallback(fname="dense", reset_on_fit=False)
    stale.best = -1.0
    learn, cb = pruned(tmp_path)
    torch.save(dense().state_dict(), tmp_path / "models" / "dense.pth")
    with pytest.warns(UserWarning, match=ENDED):
        learn.fit(1, 1e-2, cbs=stale)
    assert same(tensors(learn.model), tensors(dense())) and keepers(learn) == 0
    stale.best = -1.0
    with pytest.warns(UserWarning, match=ENDED):
        learn.fit(2, 1e-2, cbs=[one_prune(), stale])
    assert same(tensors(learn.model), tensors(dense())) and keepers(learn) == 0

    class FirstEpoch(SaveModelCallback):
        """The best epoch is the first, whose weights have no zeros yet."""

        def after_epoch(self) -> None:
            if self.epoch == 0:
                self._save(self.fname)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learn.fit(2, 1e-2, cbs=[cb := one_prune(), FirstEpoch()])
    assert zeros_hold(cb) and keepers(learn) == 1


class Loads(Callback):
    """Replaces the weights before an epoch of a fit."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def before_epoch(self) -> None:
        if self.epoch == self.at:
            load(self.learn)


@pytest.mark.parametrize("epoch", [5, 6], ids=["before a prune", "between prunes"])
def test_weights_that_are_replaced_in_mid_fit_are_refused(epoch: int) -> None:
    learn = learner()
    schedule = Schedule(sched_one_shot, start_pct=0.1) if epoch == 6 else None
    with pytest.raises(UserError, match="found other weights in 0, 4 than those of its mask"):
        learn.fit(8, 1e-2, cbs=[callback(80, schedule=schedule), Loads(epoch)])
    assert same(tensors(learn.model), tensors(dense()) | {n: t for n, t in tensors(learn.model).items() if "1." in n})


def test_a_ticket_has_no_final_weights_that_were_not_trained_under_its_mask() -> None:
    learn, cb = pruned()
    assert cb.ticket().final
    load(learn)
    assert not cb.ticket().final and cb.ticket().initial


# -- levels -----------------------------------------------------------------------------------------------------------


def test_levels_start_anew_from_new_weights() -> None:
    learn = learner()
    list(find_tickets(learn, **LEVELS))
    load(learn)
    with pytest.warns(UserWarning, match=r"the mask \(40\.12 % sparse\) has ended"):
        again = next(find_tickets(learn, **LEVELS))
    assert again.level == 0 and zeros(learn.model) == 0
    assert all(torch.equal(again.ticket.initial[name], tensor) for name, tensor in dense().state_dict().items())


@pytest.mark.parametrize("replace", [load, other_model], ids=["loaded", "another model"])
def test_a_level_is_not_pruned_from_weights_of_another_network(replace: Callable[[Learner], None]) -> None:
    learn = learner()
    cb = SparsifyCallback(60, "weight", "local", "large_final", Levels(prune_rate=20), rewind_epoch=0, verbose=False)
    learn.fit(1, 1e-2, cbs=cb)
    assert cb.next_level()
    replace(learn)
    before = tensors(learn.model)
    for step in (cb.next_level, cb.start_level):
        with pytest.raises(UserError, match=r"found other weights in 0, 4 than those of its mask \(19\.96 % sparse\)"):
            step()
    assert same(tensors(learn.model), before) and cb.level == 1


@pytest.mark.parametrize("replace", [load, other_model], ids=["loaded", "another model"])
def test_a_dense_level_belongs_to_its_weights_too(replace: Callable[[Learner], None]) -> None:
    """Nothing is masked yet; but the ticket would return to weights that these do not come from."""
    learn = learner()
    next(levels := find_tickets(learn, **LEVELS))
    learn.fit(1, 1e-2)
    next(levels)
    learn = learner()
    next(levels := find_tickets(learn, **LEVELS))
    replace(learn)
    with pytest.raises(UserError, match="found other weights"):
        next(levels)
    with pytest.warns(UserWarning, match="found other weights than the last fit has left: a callback starts anew"):
        again = list(find_tickets(learn, **LEVELS))
    assert [level.level for level in again] == [0, 1]
    assert torch.equal(again[1].ticket.initial["9.weight"], dense().state_dict()["9.weight"])


def test_to_find_a_rate_does_not_make_replaced_weights_those_of_the_last_fit() -> None:
    learn = learner()
    next(levels := find_tickets(learn, **LEVELS))
    load(learn)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=30, show_plot=False)
    with pytest.raises(UserError, match="found other weights"):
        next(levels)


@pytest.mark.parametrize("fit", [lambda *_, **__: None, None], ids=["nothing", "dry"])
def test_a_fit_that_trains_no_level_is_refused(fit: Any) -> None:
    learn = learner()
    fit = fit or partial(learn.fit, cbs=ShortEpochCallback())
    with pytest.raises(UserError, match="find_tickets: fit: found one that trained nothing"):
        next(find_tickets(learn, levels=1, epochs=2, fit=fit))


def test_levels_keep_the_best_epoch_of_each_fit(tmp_path: Path) -> None:
    learn = learner(path=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit = partial(learn.fit, lr=1e-2, cbs=SaveModelCallback())
        found = list(find_tickets(learn, prune_rate=40.0, levels=1, epochs=2, fit=fit))
    assert found[1].sparsity == pytest.approx(40, abs=0.2)


class BreaksOff(Callback):
    """Interrupts a fit between the step of the optimiser and the zeros that follow it."""

    order = 64

    def after_step(self) -> None:
        if self.learn.epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupt_within_a_step_does_not_end_the_mask() -> None:
    learn, cb = pruned()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, 1e-1, cbs=BreaksOff())
    assert not zeros_hold(cb)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learn.fit(1, 1e-2)
    assert zeros_hold(cb)
    learn = learner()
    found = find_tickets(learn, **LEVELS)
    next(found)
    learn.add_cb(breaks := BreaksOff())
    with pytest.raises(KeyboardInterrupt):
        next(found)
    learn.remove_cb(breaks)
    assert [level.level for level in find_tickets(learn, **LEVELS)] == [1]


def test_a_step_that_accumulation_skips_is_no_interrupt() -> None:
    learn, _ = pruned()
    learn.fit(1, 1e-2, cbs=GradientAccumulation(n_acc=460))
    load(learn)
    with pytest.warns(UserWarning, match=ENDED):
        learn.fit(1, 1e-9, wd=0)


def test_a_state_without_its_network_is_refused() -> None:
    _, cb = pruned()
    learn, again = learner(), one_prune()
    again.load_state_dict(cb.state_dict())
    before = tensors(learn.model)
    with pytest.raises(UserError, match=r"load_state_dict: found other weights in 0, 4.*load its state_dict too"):
        learn.fit(4, 1e-2, cbs=again, start_epoch=3)
    assert same(tensors(learn.model), before)


def test_a_callback_for_other_layers_says_that_the_mask_ends() -> None:
    learn, _ = pruned()
    with pytest.warns(UserWarning, match=r"the mask of layers 0, 4 \(80\.04 % sparse\) has ended: .*\(9\)"):
        learn.fit(4, 1e-2, cbs=callback(50, layer_type=nn.Linear))


# -- looking ----------------------------------------------------------------------------------------------------------


def predict(learn: Learner) -> None:
    learn.predict(learn.dls.valid.items[0][0])


def interpret(learn: Learner) -> None:
    ClassificationInterpretation.from_learner(learn).confusion_matrix()


def find_rate(learn: Learner) -> None:
    learn.lr_find(num_it=8, show_plot=False)


def dry_run(learn: Learner) -> None:
    """Trains two batches, whose changes the test takes back."""
    model, opt = copy.deepcopy(learn.model.state_dict()), copy.deepcopy(learn.opt and learn.opt.state_dict())
    learn.fit(1, 1e-2, cbs=ShortEpochCallback(pct=0.01))
    for layer in learn.keep_mask.pruner.layers if hasattr(learn, "keep_mask") else []:
        assert float((layer.weight == 0).float().mean()) > 0.79, "its steps keep the zeros"
    learn.model.load_state_dict(model)
    if opt:
        learn.opt.load_state_dict(opt)


LOOKS: list[Callable[[Learner], Any]] = [
    Learner.summary, Learner.validate, Learner.get_preds, predict, interpret, find_rate, Learner.show_results, dry_run,
]  # fmt: skip


@pytest.mark.parametrize("look", LOOKS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("when", ["before", "after"])
def test_looking_leaves_no_trace(look: Callable[[Learner], Any], when: str) -> None:
    learn, cb = learner(metrics=accuracy), one_prune()
    learn.add_cb(cb)
    if when == "after":
        learn.fit(2, 1e-2)

    def seen() -> Any:
        state, ticket = cb.state_dict(), cb.ticket() if cb.pruner else None
        names = [metric.name for metric in learn.metrics]
        return tensors(learn.model), state, ticket and ticket.final, [id(c) for c in learn.cbs], names, cb.goes_on

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)

    before = copy.deepcopy(seen())
    look(learn)
    assert equal(before, seen())
    learn.fit(2, 1e-2)
    assert len(cb.pruner.levels) == (1 if when == "before" else 2) and zeros_hold(cb), (
        "the fit after it is as if nobody had looked"
    )


def test_a_summary_in_mid_fit_changes_nothing() -> None:
    class Looks(Callback):
        order = 60

        def after_train(self) -> None:
            epoch, pct = self.learn.epoch, self.learn.pct_train
            self.learn.summary()
            self.learn.epoch, self.learn.pct_train = epoch, pct

    found = []
    for extra in ([], [Looks()]):
        torch.manual_seed(0)
        learn, cb = learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), callback(80, lth=True)
        learn.fit(8, 1e-2, cbs=[cb, *extra])
        found.append((tensors(learn.model), len(cb.pruner.levels), [m.name for m in learn.metrics]))
    assert same(found[0][0], found[1][0]) and found[0][1:] == found[1][1:] == (3, [])


def test_levels_are_not_counted_by_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    learn = learner()
    cb = SparsifyCallback(60, "weight", "local", "large_final", Levels(prune_rate=40), rewind_epoch=0)
    learn.fit(1, 1e-2, cbs=[cb, ShortEpochCallback()])
    assert cb.pruner is None and cb.levels_trained == 0
    assert capsys.readouterr().out == "ShortEpochCallback: a dry run, in which nothing is pruned\n"
