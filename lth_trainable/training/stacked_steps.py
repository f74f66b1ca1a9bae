"""The training of an epoch of one member of a cohort: requests to its conductor in place of steps of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from torch import Tensor

from lth_trainable.data.augment import Draws
from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.silence import pulse
from lth_trainable.stacking.run import Run
from lth_trainable.training.captured import AROUND_A_STEP, acting, acting_within, say_when
from lth_trainable.training.cohort import Seat
from lth_trainable.training.measure import Sums
from lth_trainable.training.requests import Measuring, Pausing, Training


class StackedSteps(Callback):
    """Has the training steps and the validation of its learner done in the stack of a cohort.

    The stack trains up to the next batch at which a callback acts (`CapturedSteps` says how that is known). Steps are
    the trial's own, in its thread, if callbacks act within a step or around each batch, if momentum changes, or if the
    networks cannot be stacked; `refusal` says why.
    """

    order = 70  # after the callbacks that prune, rewind and mask at the start of an epoch

    def __init__(self, seat: Seat) -> None:
        self.seat, self.refusal = seat, seat.refusal
        self._usable = False
        self._measured: Measuring | None = None  # right after the batch at which callbacks act now
        self._order: Tensor | None = None
        self._draws: Draws | None = None

    def before_train(self) -> None:
        others = acting_within(self.learn)
        if self.refusal is None and others:
            self.refusal = f"{type(others[0]).__name__} acts within a step"
        elif self.refusal is None and self.learn.clock.curve.rule.cycles_momentum:
            self.refusal = "its momentum changes"
        elif self.refusal is None and not isinstance(self.learn.dls.train, ResidentLoader):
            self.refusal = "its data are not in memory"
        self._usable = self.refusal is None

    def train_epoch(self) -> bool:
        """Train the learner's epoch; False if the learner must go through its batches itself."""
        learn, loader = self.learn, self.learn.dl
        learn.n_iter = len(loader)
        if not (self._usable and say_when(learn)):
            self.seat.ask(Pausing(learn=learn))
            return False
        acts = {event: acting(learn, event) for event in AROUND_A_STEP}
        self._order, self._draws = loader.order(), loader.draws()
        start = 0
        while start < learn.n_iter:
            learn.iter = start
            for cb in acts["before_batch"].get(start, ()):
                cb("before_batch")
            end = self._next_act(start, acts)
            next_ones = acts["after_batch"].get(end - 1, [])
            if not self._train(start, end, is_measured=any(map(_measures, next_ones))):
                return False  # of the first batches of the trial: nothing has been trained
            try:
                for cb in next_ones:
                    cb("after_batch")
            finally:
                self._measured = None
            start = end
        loader.end_pass()
        return True

    def _next_act(self, start: int, acts: dict[str, dict[int, list[Callback]]]) -> int:
        """The batch before which a callback acts next, after batch `start` or a later one."""
        before = (i for i in acts["before_batch"] if i > start)
        after = (i + 1 for i in acts["after_batch"] if i >= start)
        return min([*before, *after, self.learn.n_iter])

    def _train(self, start: int, end: int, is_measured: bool) -> bool:
        """Have the batches [start, end) of the epoch trained. False if the networks cannot be stacked.

        is_measured: whether the validation split is measured next.
        """
        learn, loader, clock = self.learn, self.learn.dl, self.learn.clock
        assert self._order is not None
        numbers = range(loader.skip + start, loader.skip + end)
        images = self._order[numbers[0] * loader.bs : (numbers[-1] + 1) * loader.bs]
        cut = len(images) - (len(numbers) - 1) * loader.bs
        sizes = (*[loader.bs] * (len(numbers) - 1), cut)
        run = Run(
            order=images, sizes=sizes, draws=self._draws, rates=clock.rates_of(numbers),
            seeds=tuple(map(clock.seed_of, numbers)),
        )  # fmt: skip
        then = Measuring(learn=learn, loader=learn.dls.valid) if is_measured else None
        request = Training(learn=learn, run=run, factors=self._factors(), then=then)
        if not self.seat.ask(request):
            self.refusal = self.seat.refusal
            return False
        self._measured = then
        sums = learn.epoch_log.sums
        sums.loss, sums.seen = _added(sums.loss, sizes, request.losses), sums.seen + len(images)
        learn.iter = end - 1
        learn.opt.set_hyper("lr", run.rates[-1])
        learn.train_iter += len(numbers)
        learn.pct_train += len(numbers) / (learn.n_iter * learn.n_epoch)
        pulse.step()
        return True

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
        return self.seat.refusal is None and isinstance(loader, ResidentLoader)

    def validate_epoch(self) -> bool:
        """Validate the learner's epoch; False if the learner must go through its batches itself."""
        learn = self.learn
        if not (self.can_measure(learn.dl) and learn.dl is learn.dls.valid and say_when(learn, "after_batch")):
            return False
        found = self.measured(learn.dl)
        if found is None:
            return False
        learn.n_iter = len(learn.dl)
        learn.epoch_log.take(float(found.loss), float(found.correct), learn.dl.n)
        return True

    def measured(self, loader: Any) -> Sums | None:
        """The sums on a split that is in memory. None if the networks cannot be stacked."""
        if self._measured is not None and self._measured.loader is loader:
            known: Sums = self._measured.found
            return known
        request = Measuring(learn=self.learn, loader=loader, draws=not self._usable)
        if not self.seat.ask(request):
            self.refusal = self.seat.refusal
            return None
        found: Sums = request.found
        return found

    def take(self) -> bool:
        """Never makes the step of a single batch."""
        return False


def _measures(cb: Callback) -> bool:
    """Whether a callback measures the validation split, first of all, where it acts after a batch."""
    return bool(getattr(cb, "measures_validation", False))


def _added(loss: Any, sizes: tuple[int, ...], losses: list[Tensor]) -> Tensor:
    """A sum of losses, with those of further batches added one after another, however many were trained at once."""
    by_image = torch.cat(losses).cpu().numpy() * np.array(sizes, np.float32)
    terms = np.concatenate([[np.float32(loss)], by_image])
    return torch.tensor(np.add.accumulate(terms, dtype=np.float32)[-1])
