"""Finds the lowest validation loss of a level, and how good the network was at that point.

Early stopping as in Frankle & Carbin (arXiv 1803.03635, sec. 2): the iteration of the lowest validation loss. A level
is the training since the last prune. Training is not stopped. The point is chosen by the validation split alone. The
weights with the lowest loss so far stay in memory and are evaluated once on the test split, when a state is stored or
the trial ends.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store import image_bits
from lth_trainable.training.measure import Measured
from lth_trainable.training.own_callback import OwnCallback


class EarlyStop(OwnCallback):
    """The lowest of the validation losses at the end of each epoch.

    level: returns the number of prunes so far. Iterations count from the last prune, whatever it rewinds to.
    """

    order = 11  # after the log, which ends a diverged fit

    def __init__(self, level: Callable[[], int]) -> None:
        self.level = level
        self.before = 0  # iterations of the level before the current epoch
        self.best: dict[str, Any] | None = None
        self.weights: Snapshot | None = None  # of the best point, until they are evaluated on the test split

    def state(self) -> dict[str, Any] | None:
        """The best point so far: level, iteration, epoch, loss, accuracies, and the test images that it gets right.

        None before the first validation.
        """
        if self.best is not None and self.weights is not None:
            found = self._on_test_split(self.weights)
            self.best["test_accuracy"], self.best["test_right"] = (
                found.accuracy,
                image_bits.pack(found.right.cpu().numpy()),
            )
            self.weights = None
        return self.best and dict(self.best)

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Continue from an earlier `state()`."""
        self.best, self.weights = state and dict(state), None

    def before_train(self) -> None:
        level = self.level()
        if self.best is not None and self.best["level"] != level:
            self.best = self.weights = None
        of_level = itertools.takewhile(lambda row: row["level"] == level, reversed(self.learn.epoch_log.rows))
        self.before = sum(row["iterations"] for row in of_level)

    def after_validate(self) -> None:
        if self.learn.lock.locked():  # validate or get_preds, outside a fit
            return
        row = self.learn.epoch_log.rows[-1]
        self._consider(self.before + row["iterations"], row["valid_loss"], row["valid_accuracy"])

    @property
    def lowest_loss(self) -> float:
        """The lowest loss of the level so far; infinity before the first validation."""
        return math.inf if self.best is None else self.best["valid_loss"]

    def _consider(self, iteration: int, loss: float, accuracy: float, weights: Snapshot | None = None) -> None:
        """Note a point if its loss is the lowest. weights: those of the network at the point, if not its present ones.

        A stack compares losses in the same way (`stacking/marks.py`).
        """
        if math.isfinite(loss) and loss < self.lowest_loss:
            self.best = {
                "level": self.level(), "iteration": iteration, "epoch": self.learn.clock.now,
                "valid_loss": loss, "valid_accuracy": accuracy,
            }  # fmt: skip
            self.weights = weights or Snapshot(self.learn.model)

    def _on_test_split(self, weights: Snapshot) -> Measured:
        model, now = self.learn.model, Snapshot(self.learn.model)
        weights.restore(model)
        try:
            found: Measured = self.learn.measure(self.dls[2])
            return found
        finally:
            now.restore(model)


class FrequentEarlyStop(EarlyStop):
    """Also validates within epochs, after every `every` iterations of the level.

    It says where (`acts_at`), and a stack that trains on past these batches validates in its place (`take_marks`).
    """

    def __init__(self, level: Callable[[], int], every: int) -> None:
        super().__init__(level)
        self.every = every

    def acts_at(self, event: str, n_iter: int) -> set[int]:
        """The batches of an epoch after which it validates; after the last one, fastai does."""
        if event != "after_batch":
            return set()
        return set(range(self.every - 1 - self.before % self.every, n_iter - 1, self.every))

    def after_batch(self) -> None:
        done = self.learn.iter + 1
        if self.learn.training and (self.before + done) % self.every == 0 and done < self.learn.n_iter:
            self._consider(self.before + done, *self.learn.measure_validation())

    def take_marks(self, marks: Sequence[tuple[int, float, float]], kept: Snapshot | None) -> None:
        """In place of its own validations: numbers of batches of this epoch, with loss and accuracy after each.

        kept: the network at the mark with the lowest loss, if that is less than `lowest_loss`.
        """
        before = self.lowest_loss
        for batch, loss, accuracy in marks:
            self._consider(self.before + batch + 1, loss, accuracy, kept)
        assert (kept is not None) == (self.lowest_loss < before), "the stack has compared otherwise"


def make_early_stop(spec: TrialSpec, level: Callable[[], int]) -> EarlyStop:
    """The early stop of a trial, which validates as often as the spec says."""
    return EarlyStop(level) if spec.validate_every is None else FrequentEarlyStop(level, spec.validate_every)
