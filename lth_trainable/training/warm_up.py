"""Trains a network for a few batches, so that this process has on its GPU what a trial needs. Stores nothing."""

from __future__ import annotations

from fastai.callback.core import Callback, CancelFitException

from lth_trainable.data.cache import only_kept
from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.training.execution import Execution
from lth_trainable.training.learner import LevelClock
from lth_trainable.training.sharing import in_bounds
from lth_trainable.training.trial import Trial

BATCHES = 3  # one by one, as a graph, and the smaller last one


def warm_up(spec: TrialSpec, execution: Execution) -> None:
    """Train the last batches of an epoch, and validate: afterwards the device's context, kernels and data are there.

    A later trial of this process has the same bytes as without. Raises what a trial like this one would raise, and
    `NotKept` if its images are not decoded yet.
    """
    with in_bounds(execution, spec):
        with only_kept():
            data = load_dataset(spec.dataset, execution.data_root, spec.split_seed, spec.image_size)
        trial = Trial(spec, data, execution, None)
        trial.learn.clock.level_clock = LevelClock(skip=max(0, trial.steps_per_epoch - BATCHES))
        trial.learn.fit(spec.epochs, cbs=_OneEpoch())


class _OneEpoch(Callback):
    """Ends a fit after its first epoch."""

    def after_epoch(self) -> None:
        raise CancelFitException
