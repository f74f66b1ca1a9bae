"""A step of a trial on a CPU leaves out what is not arithmetic, unless somebody would see the difference."""

from __future__ import annotations

import pickle
from fractions import Fraction
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback
from torch import Tensor, nn

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.training import cpu_step
from lth_trainable.training.captured import WITHIN_A_STEP
from lth_trainable.training.execution import Execution
from lth_trainable.training.learner import LevelClock, TrialLearner
from lth_trainable.training.trial import Trial


class Dropping(nn.Module):
    """A network with dropout, and with a layer that takes part in no pass."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.first, self.idle, self.last = nn.Linear(64, 30), nn.Linear(3, 3), nn.Linear(30, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(self.first(x.flatten(1)).relu(), training=self.training))


def dropping(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    return Dropping(n_classes)


SPECS = {
    "adam": TrialSpec(epochs=2, target_sparsity_pct=64),
    "sgd": TrialSpec(epochs=2, target_sparsity_pct=64, optimizer="sgd", lr=0.05),
    "no momentum": TrialSpec(epochs=2, target_sparsity_pct=64, optimizer="sgd", lr=0.05, momentum=0.0),
    "one cycle": TrialSpec(epochs=2, target_sparsity_pct=64, lr_policy="one_cycle"),
    "dropout, augmented": TrialSpec(
        epochs=2, target_sparsity_pct=64, model="tests.lth_trainable.training.test_cpu_step:dropping", augment="shift"
    ),
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each training step so far was a plain one."""
    made: list[bool] = []
    take = cpu_step.PlainSteps.take

    def noted(self: cpu_step.PlainSteps, learn: Any) -> bool:
        made.append(take(self, learn))
        return made[-1]

    monkeypatch.setattr(cpu_step.PlainSteps, "take", noted)
    return made


def pruned(spec: TrialSpec) -> Trial:
    trial = Trial(spec, load_dataset("digits"), Execution(), None)
    trial.fit(0, 1, LevelClock())
    trial.callback.prune(Fraction(64, 100))
    return trial


def everything(trial: Trial) -> list[Any]:
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in trial.log.rows]
    moments = trial.learn.opt.state_dict()["state"]
    tensors = [value for own in moments.values() for value in own.values() if value is not None]
    return [rows, *(t.tolist() for t in (*trial.model.state_dict().values(), *tensors)), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("name", SPECS)
def test_plain_steps_have_the_bytes_of_fastais(name: str, plain: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    trial = pruned(SPECS[name])
    trial.fit(1, 2, LevelClock())
    assert len(plain) == 2 * trial.steps_per_epoch and all(plain)
    monkeypatch.setattr(cpu_step.PlainSteps, "take", lambda *_: False)
    stock = pruned(SPECS[name])
    stock.fit(1, 2, LevelClock())
    assert everything(trial) == everything(stock)


class Acting(Callback):
    """Notes the events within a step, with what the learner has of the step at each."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []


def _noted(event: str) -> Any:
    def note(self: Acting) -> None:
        learn = self.learn
        gradients = [parameter.grad is not None for parameter in learn.model.parameters()]
        zeros = [float((layer.weight == 0).float().mean()) for layer in learn.model if isinstance(layer, nn.Linear)]
        loss = float(learn.loss) if event not in ("before_batch", "after_pred") else None
        self.seen.append((event, learn.iter, learn.training, learn.pred.shape, loss, any(gradients), zeros))

    return note


for _event in (*WITHIN_A_STEP, "after_batch"):
    setattr(Acting, _event, _noted(_event))


def test_a_callback_that_acts_within_a_step_gets_every_event(plain: list[bool]) -> None:
    trial, acting = pruned(SPECS["adam"]), Acting()
    plain.clear()
    trial.fit(1, 2, LevelClock(), acting)
    assert not any(plain)
    first = [row for row in acting.seen if row[1] == 0 and row[2]]
    expected = [event for event in WITHIN_A_STEP if "cancel" not in event] + ["after_batch"]
    assert [row[0] for row in first] == expected
    assert [row[5] for row in first] == [event in expected[3:6] for event in expected]  # gradients


class Joins(Callback):
    """Brings a callback that acts within steps into the fit before its third batch, and takes it off before the sixth.

    So that the mask is not the only one then.
    """

    def __init__(self, other: Callback) -> None:
        self.other = other

    def before_batch(self) -> None:
        if self.learn.training and self.learn.iter == 2:
            self.learn.add_cb(self.other)
        if self.learn.training and self.learn.iter == 5:
            self.learn.remove_cb(self.other)


def test_a_callback_that_comes_in_mid_epoch_gets_its_events(plain: list[bool]) -> None:
    trial, acting = pruned(SPECS["adam"]), Acting()
    plain.clear()
    trial.fit(1, 2, LevelClock(), Joins(acting))
    assert [number for number, made in enumerate(plain) if not made] == [2, 3, 4]
    assert {row[1] for row in acting.seen} == {2, 3, 4}


def test_hooks_of_the_optimiser_are_called(plain: list[bool]) -> None:
    trial, calls = pruned(SPECS["adam"]), []
    trial.learn.opt.opt.register_step_post_hook(lambda *_: calls.append(1))
    trial.fit(1, 2, LevelClock())
    assert len(calls) == trial.steps_per_epoch and all(plain)


def test_masked_weights_are_zero_before_each_pass() -> None:
    class Zeros(Callback):
        def before_batch(self) -> None:
            for layer, mask in trial.pruner.in_force.items():  # type: ignore[union-attr]
                weight = dict(self.learn.model.named_parameters())[layer].detach().numpy()
                assert not weight[~mask].any()

    trial = pruned(SPECS["sgd"])
    trial.fit(1, 2, LevelClock(), Zeros())


def test_a_learner_is_pickled_without_its_optimiser() -> None:
    trial = pruned(SPECS["adam"])
    learn = TrialLearner(trial.dls, trial.model, loss_func=nn.CrossEntropyLoss(), default_cbs=False)
    learn.plain_steps = trial.learn.plain_steps
    again = pickle.loads(pickle.dumps(learn.plain_steps))
    assert isinstance(again, cpu_step.PlainSteps) and again._seen == (None, None)
