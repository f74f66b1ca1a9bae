"""Which fits are trainings of the user's. Everything else of fastai only looks at a network and leaves no trace."""

from __future__ import annotations

from typing import Any

from fastai.callback.training import ShortEpochCallback
from fastai.learner import SkipToEpoch


def is_looking(learn: Any) -> bool:
    """Whether fastai only looks at the network now: validate and get_preds, lr_find, or a dry run.

    validate and get_preds hold the learner's lock, also in mid-fit; within lr_find the learner has an `lr_finder`.
    `learn.summary()` cannot be told from a fit before it trains, so callbacks start when the first epoch does.
    """
    return bool(learn.lock.locked()) or is_finding_rate(learn) or is_dry_run(learn)


def is_finding_rate(learn: Any) -> bool:
    """Whether lr_find runs, which trains and then returns all weights."""
    return hasattr(learn, "lr_finder")


def skipped_every_epoch(learn: Any) -> bool:
    """Whether a fit that ends, and has trained no epoch, was asked to skip all of them: `fit(n, start_epoch=n)`.

    So goes on whoever was interrupted after the last epoch; what a callback does at the end of the fit is still to do.
    """
    skips = any(isinstance(callback, SkipToEpoch) for callback in learn.cbs)
    return skips and int(learn.epoch) == int(learn.n_epoch) - 1


def is_dry_run(learn: Any) -> bool:
    """Whether the fit trains a few batches only, to see that everything works: it has a ShortEpochCallback."""
    return any(isinstance(callback, ShortEpochCallback) for callback in learn.cbs)
