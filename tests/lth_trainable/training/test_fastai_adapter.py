"""fastai's step of a batch is not public: a new version of fastai that changes it is noticed here."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, TrainEvalCallback, event
from fastai.learner import Learner
from fastai.optimizer import SGD
from torch import nn

from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.loaders import resident_loaders
from lth_trainable.training.captured import WITHIN_A_STEP
from lth_trainable.training.fastai_adapter import eager_step
from lth_trainable.training.learner import TrialLearner
from lth_trainable.training.rate_on_device import RateOnDevice

EVENTS = [name for name in vars(event) if name.startswith(("before_", "after_")) and name != "after_create"]


class Witness(Callback):
    """Notes every event, in order; cancel: raise where the second batch begins."""

    def __init__(self, cancel: bool = False) -> None:
        self.events: list[str] = []
        self.cancel = cancel


def _noted(name: str) -> Any:
    def note(self: Witness) -> None:
        self.events.append(name)
        if self.cancel and name == "before_batch" and self.learn.iter == 1:
            raise CancelBatchException

    return note


for _name in EVENTS:
    setattr(Witness, _name, _noted(_name))


def learner(kind: type[Learner], witness: Witness) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    dls = resident_loaders(load_dataset("digits"), batch_size=256, order_seed=0)
    callbacks = [TrainEvalCallback(), witness]
    return kind(dls, model, loss_func=nn.CrossEntropyLoss(), opt_func=SGD, lr=0.1, default_cbs=False, cbs=callbacks)


def test_fastai_has_the_step_that_the_adapter_calls() -> None:
    step = getattr(Learner, "_do_one_batch", None)
    found = None if step is None else list(inspect.signature(step).parameters)
    assert found == ["self"], (
        f"fastai {version('fastai')}: found Learner._do_one_batch with the parameters {found}; expected ['self']; see "
        "how its Learner.one_batch makes a step now, and adapt lth_trainable/training/fastai_adapter.py"
    )


def test_the_step_has_the_events_that_may_fall_within_a_captured_one() -> None:
    witness = Witness()
    learn = learner(Learner, witness)
    learn.create_opt()
    learn.training, learn.iter = True, 0
    x, y = learn.dls.train.one_batch()
    learn.xb, learn.yb = (x,), (y,)
    eager_step(learn)
    cancelled = {"after_cancel_backward", "after_cancel_step"}
    assert witness.events == [name for name in WITHIN_A_STEP if name not in cancelled], (
        f"fastai {version('fastai')}: found the events {witness.events} in the step of a batch; see whether "
        "WITHIN_A_STEP of lth_trainable/training/captured.py still names all that may act within one"
    )


@pytest.mark.parametrize("cancel", [False, True])
def test_the_learner_of_trials_is_fastais(cancel: bool) -> None:
    """The same events in the same order, and the same bytes."""
    learners = [learner(kind, Witness(cancel)) for kind in (Learner, TrialLearner)]
    for learn in learners:
        learn.fit(2)
        learn.validate()
    stock, ours = learners
    assert ours.witness.events == stock.witness.events
    for name, tensor in stock.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name


def test_a_learning_rate_goes_to_its_tensor_and_all_else_to_the_group() -> None:
    parameters = [[nn.Parameter(torch.zeros(2))], [nn.Parameter(torch.zeros(3))]]
    wrapper = RateOnDevice(parameters, opt=torch.optim.SGD, lr=0.1)
    tensors = [group["lr"] for group in wrapper.opt.param_groups]
    wrapper.set_hypers(lr=slice(0.01, 0.04), mom=0.5)
    assert [group["lr"] is tensor for group, tensor in zip(wrapper.opt.param_groups, tensors, strict=True)] == [
        True
    ] * 2
    assert [float(tensor) for tensor in tensors] == pytest.approx([0.01, 0.04])
    assert [hyper["lr"] for hyper in wrapper.hypers] == pytest.approx([0.01, 0.04], rel=1e-12)
    assert [group["momentum"] for group in wrapper.opt.param_groups] == [0.5, 0.5]
