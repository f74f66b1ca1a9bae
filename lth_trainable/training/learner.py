"""The fastai Learner of a trial, with its clock (data order, random stream, learning rate) and its log of epochs."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException, TrainEvalCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from lth_trainable.seeds import derive_seed
from lth_trainable.silence import pulse
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stopwatch import part
from lth_trainable.store.indented import Fixed
from lth_trainable.training.captured import CapturedSteps
from lth_trainable.training.compiled import compiled
from lth_trainable.training.cpu_step import PlainSteps
from lth_trainable.training.cycled import CycledAdamW, CycledSGD
from lth_trainable.training.fastai_adapter import eager_step
from lth_trainable.training.measure import Measured, evaluate
from lth_trainable.training.own_callback import OwnCallback
from lth_trainable.training.precision import AUTOCAST, Autocast
from lth_trainable.training.rate_on_device import RateOnDevice
from lth_trainable.training.stacked_steps import StackedSteps

_LARGEST_SEED = (1 << 63) - 1
FUSED: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": functools.partial(torch.optim.AdamW, fused=True), "sgd": functools.partial(torch.optim.SGD, fused=True),
}  # fmt: skip
CYCLED: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": CycledAdamW, "sgd": CycledSGD}


class TrialLearner(Learner):
    """fastai's Learner, but an event only reaches the callbacks that define it.

    A digits batch takes 0.8 ms in fastai, half of it for offering events to callbacks that ignore them.
    """

    captured_steps: CapturedSteps | None = None
    stacked_steps: StackedSteps | None = None
    autocast: Autocast | None = None

    @functools.cached_property
    def plain_steps(self) -> PlainSteps:
        return PlainSteps()

    def __call__(self, event_name: Any) -> None:
        for name in [event_name] if isinstance(event_name, str) else event_name:
            for callback in self.listeners(name):
                callback(name)

    @property
    def known_listeners(self) -> dict[str, list[Callback]]:
        """The callbacks that define an event, as far as they were asked for. A new dict when callbacks have changed."""
        found: dict[str, list[Callback]] = self.__dict__.setdefault("_known_listeners", {})
        return found

    def listeners(self, event_name: str) -> list[Callback]:
        """The callbacks that get an event, in their order."""
        known = self.known_listeners
        if event_name not in known:
            callbacks = self.cbs.sorted("order")
            # after_fit also re-enables callbacks, so all of them get it
            known[event_name] = [c for c in callbacks if event_name == "after_fit" or hasattr(type(c), event_name)]
        return known[event_name]

    def all_batches(self) -> None:
        steps = self.stacked_steps or self.captured_steps
        if steps is None or not (steps.train_epoch() if self.training else steps.validate_epoch()):
            super().all_batches()

    def do_step(self) -> None:
        """The step of the learner's batch, in its precision."""
        with compiled(self.model), contextlib.nullcontext() if self.autocast is None else self.autocast.forward():
            eager_step(self)

    @part("validation")
    def measure_validation(self) -> tuple[float, float]:
        """Mean loss and accuracy (fraction) of the network on the validation split. Changes nothing."""
        valid = self.dls.valid
        if self.captured_steps is not None and self.captured_steps.can_validate:
            loss, correct = self.captured_steps.sums_on_validation()
            return loss / valid.n, correct / valid.n
        found = self.measure(valid)
        return found.loss, found.accuracy

    @part("validation")
    def measure(self, loader: Any) -> Measured:
        """Loss and accuracy of the network on all images of a loader. Changes nothing."""
        steps = self.stacked_steps
        found = steps.measured(loader) if steps is not None and steps.can_measure(loader) else None
        found = found or evaluate(self.model, loader, self.loss_func, self.autocast)
        n = len(found.right)
        return Measured(float(found.loss) / n, float(found.correct) / n, found.right)

    def one_batch(self, i: int, b: tuple[Any, ...]) -> None:
        """Like fastai's, except that a training step may be a captured one, and the batch is not moved to a device.

        Resident data are on the model's device already.
        """
        n_inputs = self.dls.n_inp
        self.iter, self.xb, self.yb = i, b[:n_inputs], b[n_inputs:]
        try:
            self("before_batch")
            if not (self.training and self._own_step()):
                self.do_step()
        except CancelBatchException:
            self("after_cancel_batch")
        self("after_batch")
        pulse.step()

    def _own_step(self) -> bool:
        if self.captured_steps is not None:
            return self.captured_steps.take()
        return self.dls.device.type == "cpu" and self.plain_steps.take(self)

    def add_cb(self, cb: Any) -> TrialLearner:
        self.__dict__.pop("_known_listeners", None)
        return super().add_cb(cb)

    def remove_cb(self, cb: Any) -> None:
        self.__dict__.pop("_known_listeners", None)
        super().remove_cb(cb)


@dataclass(frozen=True, kw_only=True)
class LevelClock:
    """Where a fit is among the levels of its trial.

    level: with the epoch, it names the random streams of data order, augmentation and dropout; 0 for a level that uses
    those of the dense network. skip: batches of the fit's first epoch that have been trained before. lr_is_last: keep
    the learning rate at the last value of a complete level. lr_fraction: keep it at this fraction of the base rate
    instead; momentum is then that of the last value. lr: base rate of this level; None: that of the spec.
    """

    level: int = 0
    skip: int = 0
    lr_is_last: bool = False
    lr_fraction: float | None = None
    lr: float | None = None

    @property
    def names(self) -> tuple[int, ...]:
        return (self.level,) if self.level else ()


class Clock(OwnCallback):
    """Sets data order, torch's random stream and the learning rate; they depend only on seed, level, epoch and step.

    `start`: number of the fit's first epoch on the clock of the trial; a level rewound to epoch k starts at k.
    """

    order = -5
    is_in_graphs = True

    def __init__(self, spec: TrialSpec) -> None:
        self.spec, self.start, self.level_clock = spec, 0, LevelClock()

    @property
    def now(self) -> int:
        return self.start + self.learn.epoch

    @property
    def rate_moves(self) -> bool:
        """Whether the learning rate is not the same in the whole trial."""
        own = self.spec.fine_tuning_lr_fraction, self.spec.control_lr
        return self.spec.lr_policy != "constant" or own != (None, None)

    @property
    def momentum_moves(self) -> bool:
        """Whether the momentum is not the same in the whole trial."""
        return self.spec.cycles_momentum

    def before_fit(self) -> None:
        self.steps_per_epoch = self.dls.train.steps_per_epoch
        self.curve = self.spec.lr_curve(self.steps_per_epoch)
        if self.level_clock.lr is not None:
            self.curve = replace(self.curve, lr=self.level_clock.lr)

    def before_train(self) -> None:
        train = self.dls.train
        self.skipped = self.level_clock.skip if self.learn.epoch == 0 else 0
        train.epoch, train.level, train.skip = self.now, self.level_clock.level, self.skipped
        self.stream = derive_seed(self.spec.seed, "forward", self.now, *self.level_clock.names)
        self.first = self.now * self.steps_per_epoch + self.skipped  # step of the epoch's first batch

    @property
    def step(self) -> int:
        """Number of the current batch's update, on the clock of the trial."""
        return self.first + self.learn.iter

    @property
    def number(self) -> int:
        """Number of the current batch in its complete epoch."""
        return self.skipped + self.learn.iter

    def seed_of(self, number: int) -> int:
        """The seed of torch's random streams for a batch of this epoch."""
        return (self.stream + number) & _LARGEST_SEED

    def seeds_of(self, numbers: range) -> npt.NDArray[np.int64]:
        """The seeds of successive batches of this epoch."""
        found = np.arange(numbers.start, numbers.stop, dtype=np.uint64) + np.uint64(self.stream)
        return (found & np.uint64(_LARGEST_SEED)).astype(np.int64)

    def seed(self) -> None:
        """Set torch's random streams to those of the current batch."""
        seed_torch(self.seed_of(self.number), self.dls.device)

    def rate_of(self, number: int) -> float:
        """The learning rate of a batch of this epoch."""
        fraction = self.level_clock.lr_fraction
        return self.curve.lr_at(self._step_of_rate(number)) if fraction is None else fraction * self.curve.lr

    def momentum_of(self, number: int) -> float:
        """The momentum of a batch of this epoch."""
        return self.curve.momentum_at(self._step_of_rate(number))

    def rates_of(self, numbers: Sequence[int]) -> tuple[float, ...]:
        """The learning rates of these batches of the epoch."""
        if not self.rate_moves:
            return (self.rate_of(numbers[0]),) * len(numbers)
        return tuple(map(self.rate_of, numbers))

    def before_batch(self) -> None:
        if not self.learn.training:
            return
        self.seed()
        if self.rate_moves:
            self.learn.opt.set_hyper("lr", self.rate_of(self.number))
            if self.momentum_moves:
                self.learn.opt.set_hyper("mom", self.momentum_of(self.number))

    def _step_of_rate(self, number: int) -> int:
        """The step whose learning rate and momentum a batch has."""
        return self.curve.total_steps - 1 if self.level_clock.lr_is_last else self.first - self.skipped + number


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's random stream on the CPU and, if the trial runs on a GPU, there too.

    Not `torch.manual_seed`: on a CPU it queues a call for a later CUDA start each time, and these are never freed.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@dataclass(slots=True)
class _Sums:
    """Sums over the images of a pass: loss and correct answers as tensors on the device, and the number of images."""

    loss: Any = 0.0
    correct: Any = 0.0
    seen: int = 0

    @property
    def mean_loss(self) -> float:
        return float(self.loss) / self.seen


class EpochLog(OwnCallback):
    """A row of measurements for each epoch. Losses are plain means over images, accuracies are fractions.

    Sums stay on the device until the epoch ends. A loss that is not finite ends the fit and sets `diverged`.
    describe: returns the level and the measured sparsity for a row. on_epoch: called with all rows after each epoch.
    """

    order = 10
    is_in_graphs, changes_weights = True, False

    def __init__(
        self, describe: Callable[[], dict[str, Any]], on_epoch: Callable[[list[dict[str, Any]]], None] | None = None
    ) -> None:
        self.describe, self.on_epoch = describe, on_epoch
        self.rows: list[dict[str, Any]] = []
        self.trained = 0  # epochs trained by this trial itself, not read from a state
        self.diverged = False
        self.sums = _Sums()
        self._train_loss, self._iterations = math.nan, 0
        self._validation: tuple[float, float] = (math.nan, math.nan)

    def before_epoch(self) -> None:
        self._started = time.perf_counter()

    def before_train(self) -> None:
        self.sums = _Sums()

    def before_validate(self) -> None:
        self.sums = _Sums()

    def after_batch(self) -> None:
        if not self.learn.yb:  # a prediction of images without labels
            return
        n, sums = len(self.learn.yb[0]), self.sums
        sums.loss = sums.loss + self.learn.loss.detach() * n
        sums.seen += n
        if not self.learn.training:
            sums.correct = sums.correct + (self.learn.pred.argmax(1) == self.learn.yb[0]).sum()

    def take(self, loss: float, correct: float, n: int) -> None:
        """Take the sums of a pass over n images in place of its batches."""
        self.sums.loss, self.sums.correct, self.sums.seen = loss, correct, n

    def after_train(self) -> None:
        self._train_loss, self._iterations = self.sums.mean_loss, self.learn.n_iter
        if not math.isfinite(self._train_loss):
            self._end_of_epoch()
            raise CancelFitException

    def after_validate(self) -> None:
        if self.learn.lock.locked():  # validate or get_preds, outside a fit
            return
        self._validation = self.sums.mean_loss, float(self.sums.correct) / self.sums.seen
        self._end_of_epoch()

    def _end_of_epoch(self) -> None:
        valid_loss, valid_accuracy = self._validation if math.isfinite(self._train_loss) else (math.nan, None)
        self.diverged = not (math.isfinite(self._train_loss) and math.isfinite(valid_loss))
        clock = self.learn.clock
        row = {
            "epoch": clock.now,
            "step": (clock.now + 1) * clock.steps_per_epoch,
            "iterations": self._iterations,
            "lr": self.learn.opt.hypers[-1]["lr"],
            "train_loss": finite(self._train_loss),
            "valid_loss": finite(valid_loss),
            "valid_accuracy": valid_accuracy,
            "seconds": round(time.perf_counter() - self._started, 6),
            **self.describe(),
        }
        self.rows.append(Fixed(row))
        self.trained += 1
        if self.on_epoch is not None:
            self.on_epoch(self.rows)
        if self.diverged:
            raise CancelFitException


class ClassLoss(nn.CrossEntropyLoss):
    """Cross-entropy, with what fastai needs to turn scores (n, classes) into probabilities and classes."""

    def activation(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=-1)

    def decodes(self, scores: Tensor) -> Tensor:
        return scores.argmax(dim=-1)


def make_learner(spec: TrialSpec, model: nn.Module, dls: DataLoaders, log: EpochLog, *more: Callback) -> Learner:
    """The Learner of a trial: its optimiser, clock, log and further callbacks, without fastai's console output."""
    autocast = Autocast(spec.precision, dls.device) if spec.precision in AUTOCAST else None
    also = [] if autocast is None else [autocast]
    scaler = None if autocast is None else autocast.scaler
    return TrialLearner(
        dls,
        model,
        loss_func=ClassLoss(),
        opt_func=optimizer_of(spec, dls.device, scaler),
        lr=spec.lr,
        wd_bn_bias=True,
        train_bn=False,
        default_cbs=False,
        cbs=[TrainEvalCallback(), Clock(spec), log, *also, *more],
    )


def optimizer_of(
    spec: TrialSpec, device: torch.device, scaler: torch.amp.GradScaler | None = None
) -> Callable[..., OptimWrapper]:
    """PyTorch's fused optimiser with the trial's settings; on a GPU one that reads its momentum there, if that moves.

    fastai's defaults (beta2 0.99, eps 1e-5, weight decay 0.01) differ from those of the papers. scaler: of the loss, in
    fp16, which only GPUs train in.
    """
    on_gpu = device.type == "cuda"
    kind = (CYCLED if on_gpu and spec.cycles_momentum else FUSED)[spec.optimizer]
    wrapper: Any = functools.partial(RateOnDevice, scaler=scaler) if on_gpu else OptimWrapper
    if spec.optimizer == "adam":
        settings: dict[str, Any] = {
            "betas": (spec.momentum, spec.beta2),
            "eps": spec.eps,
            "weight_decay": spec.weight_decay,
            "capturable": on_gpu,
        }
    else:
        settings = {"momentum": spec.momentum, "weight_decay": spec.weight_decay}
    return functools.partial(wrapper, opt=functools.partial(kind, **settings))


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinity, which no stored file contains."""
    return value if math.isfinite(value) else None
