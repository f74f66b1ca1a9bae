"""The training of an epoch of one member of a cohort: requests to its conductor in place of steps of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from torch import Tensor

from lth_trainable.data.augment import Draws
from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.pruning.masks_together import Ranking
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.silence import pulse
from lth_trainable.stacking.marks import AtMark
from lth_trainable.stacking.run import Run
from lth_trainable.training.captured import AROUND_A_STEP, acting, acting_within, say_when
from lth_trainable.training.cohort import Seat
from lth_trainable.training.measure import Sums
from lth_trainable.training.own_callback import OwnCallback
from lth_trainable.training.requests import Measuring, Pausing, Pruning, Training

BEFORE_VALIDATION = ("after_train", "before_validate")  # events between the last batch of an epoch and its validation


class StackedSteps(OwnCallback):
    """Has the training steps and the validation of its learner done in the stack of a cohort.

    The stack trains up to the next batch at which a callback acts (`CapturedSteps` says how that is known). A callback
    that only measures the validation split there, and remembers the network at the lowest loss, need not stop it, if
    no other acts at the same batch. It has `lowest_loss`, and `take_marks`, called with what the stack has found at
    several such batches. The validation at the end of an epoch is measured with its last batches, if no callback could
    change the network between: those that act there have a false `changes_weights`. So an epoch is one request.

    Steps and validation are the trial's own, in its thread, if callbacks act within a step, if momentum changes, or if
    the networks cannot be stacked; `refusal` says why. Steps are also, if callbacks act around each batch.
    """

    order = 70  # after the callbacks that prune, rewind and mask at the start of an epoch

    def __init__(self, seat: Seat) -> None:
        self.seat, self.refusal = seat, seat.refusal
        self._at_end: AtMark | None = None  # the validation of the epoch whose batches have just been trained
        self._order: Tensor | None = None
        self._draws: Draws | None = None

    def before_train(self) -> None:
        self.refusal = self.refusal or self._why_alone()

    def after_fit(self) -> None:
        self._at_end = None  # the fit may have been cancelled before the validation

    def _why_alone(self) -> str | None:
        """Why the learner's steps are its own, as far as it knows itself; None if they need not be."""
        if others := acting_within(self.learn):
            return f"{type(others[0]).__name__} acts within a step"
        if self.learn.clock.momentum_moves:
            return "its momentum changes"
        if not isinstance(self.learn.dls.train, ResidentLoader):
            return "its data are not in memory"
        return None

    def train_epoch(self) -> bool:
        """Train the learner's epoch; False if the learner must go through its batches itself."""
        learn, loader = self.learn, self.learn.dl
        learn.n_iter = len(loader)
        if self.refusal is not None or not say_when(learn):
            self.seat.ask(Pausing(learn=learn))
            return False
        acts = {event: acting(learn, event) for event in AROUND_A_STEP}
        watcher = next(filter(_takes_marks, learn.listeners("after_batch")), None)
        marks = {i for i, those in acts["after_batch"].items() if those == [watcher]}
        stops = {i for i in acts["before_batch"] if i > 0} | {i + 1 for i in acts["after_batch"] if i not in marks}
        self._order, self._draws = loader.order(), loader.draws()
        start = 0
        for end in sorted({*stops, learn.n_iter}):
            learn.iter = start
            for cb in acts["before_batch"].get(start, ()):
                cb("before_batch")
            if not self._train(start, end, watcher, {i for i in marks if start <= i < end}, end not in stops):
                return False  # of the first batches of the trial: nothing has been trained
            for cb in acts["after_batch"].get(end - 1, ()) if end - 1 not in marks else ():
                cb("after_batch")
            start = end
        loader.end_pass()
        return True

    def _train(self, start: int, end: int, watcher: Any, marks: set[int], leads_on: bool) -> bool:
        """Have the batches [start, end) of the epoch trained. False if the networks cannot be stacked.

        marks: the batches after which the watcher is to know results. leads_on: no callback acts after the last batch.
        """
        learn, loader, clock = self.learn, self.learn.dl, self.learn.clock
        assert self._order is not None
        numbers = range(loader.skip + start, loader.skip + end)
        images = self._order[numbers[0] * loader.bs : (numbers[-1] + 1) * loader.bs]
        cut = len(images) - (len(numbers) - 1) * loader.bs
        sizes = (*[loader.bs] * (len(numbers) - 1), cut)
        is_at_end = end == learn.n_iter and leads_on and self._is_validated_next()
        run = Run(
            order=images, sizes=sizes, draws=self._draws, rates=clock.rates_of(numbers),
            seeds=clock.seeds_of(numbers),
            marks={**({len(sizes): False} if is_at_end else {}), **{i + 1 - start: True for i in marks}},
            lowest=watcher.lowest_loss if marks else math.inf,
        )  # fmt: skip
        request = Training(learn=learn, run=run, factors=self._factors(), meanwhile=loader.draw_ahead)
        if not self.seat.ask(request):
            self.refusal = self.seat.refusal
            return False
        sums = learn.epoch_log.sums
        sums.loss, sums.seen = _added(sums.loss, sizes, request.losses), sums.seen + len(images)
        learn.iter = end - 1
        if clock.rate_moves:
            learn.opt.set_hyper("lr", run.rates[-1])
        learn.train_iter += len(numbers)
        learn.pct_train += len(numbers) / (learn.n_iter * learn.n_epoch)
        pulse.step()
        self._at_end = request.at_marks[-1] if is_at_end else None
        if marks:
            n, kept, results = learn.dls.valid.n, request.kept, request.at_marks[: len(marks)]
            found = [(i, at.loss / n, at.correct / n) for i, at in zip(sorted(marks), results, strict=True)]
            watcher.take_marks(found, None if kept is None else Snapshot(learn.model, tensors=kept))
        return True

    def _is_validated_next(self) -> bool:
        """Whether the stack measures the validation split after the epoch, and no callback changes weights before."""
        between = (cb for event in BEFORE_VALIDATION for cb in self.learn.listeners(event))
        stay = all(isinstance(cb, KeepMask | TrainEvalCallback) or not _may_change_weights(cb) for cb in between)
        return stay and self.can_measure(self.learn.dls.valid) and say_when(self.learn, "after_batch")

    def _factors(self) -> dict[str, Tensor]:
        """The masks that hold now, by the name of the parameter."""
        found: dict[str, Tensor] = {}
        for cb in self.learn.cbs:
            if isinstance(cb, KeepMask) and cb.holds:
                for layer, factor in zip(cb.pruner.layers, cb.pruner.factors(), strict=False):
                    name = layer.parameter_name
                    found[name] = found[name] * factor if name in found else factor
        return found

    # -- results on a split ------------------------------------------------------------------------------------------

    def can_measure(self, loader: Any) -> bool:
        return self.seat.refusal is None and self._why_alone() is None and isinstance(loader, ResidentLoader)

    def validate_epoch(self) -> bool:
        """Validate the learner's epoch; False if the learner must go through its batches itself."""
        learn, found = self.learn, self._at_end
        self._at_end = None
        if found is None:
            if not (self.can_measure(learn.dl) and learn.dl is learn.dls.valid and say_when(learn, "after_batch")):
                return False
            sums = self.measured(learn.dl)
            if sums is None:
                return False
            found = AtMark(float(sums.loss), float(sums.correct), False)
        learn.n_iter = len(learn.dl)
        learn.epoch_log.take(found.loss, found.correct, learn.dl.n)
        return True

    def measured(self, loader: Any) -> Sums | None:
        """The sums on a split that is in memory. None if the networks cannot be stacked."""
        request = Measuring(learn=self.learn, loader=loader, draws=not say_when(self.learn))
        if not self.seat.ask(request):
            self.refusal = self.seat.refusal
            return None
        found: Sums = request.found
        return found

    # -- masks -------------------------------------------------------------------------------------------------------

    def rank(self, ranking: Ranking) -> Tensor | None:
        """The mask that keeps the highest scores, found with those of other members that prune now."""
        request = Pruning(learn=self.learn, ranking=ranking)
        self.seat.ask(request)
        return request.found

    def take(self) -> bool:
        """Never makes the step of a single batch."""
        return False


def _takes_marks(cb: Callback) -> bool:
    """Whether results of the validation split can be handed to a callback, in place of events after batches."""
    return hasattr(type(cb), "take_marks") and cb.run and cb.run_train


def _may_change_weights(cb: Callback) -> bool:
    """Whether a callback could change the network between an epoch's last batch and its validation."""
    return bool(getattr(type(cb), "changes_weights", True))


def _added(loss: Any, sizes: tuple[int, ...], losses: list[Tensor]) -> Tensor:
    """A sum of losses, with those of further batches added one after another, however many were trained at once."""
    by_image = torch.cat(losses).cpu().numpy() * np.array(sizes, np.float32)
    terms = np.concatenate([[np.float32(loss)], by_image])
    return torch.tensor(np.add.accumulate(terms, dtype=np.float32)[-1])
