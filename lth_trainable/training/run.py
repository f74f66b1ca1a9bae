"""Runs one trial from start to end, without Ray: `run_trial(spec, store)`.

A trial starts from the deepest stored state on its chain, goes through the remaining segments, and stores the states
that others need (`lifecycle.py`). With levels, each stretch of training is one `Learner.fit`; a schedule within one fit
has only that fit (`trial.py`). The record is made from the final state (`record.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stopwatch import current, part, running
from lth_trainable.store.record import Identity, can_record, record_trial
from lth_trainable.store.states import States
from lth_trainable.store.store import Damaged, Store
from lth_trainable.tickets.imported import find_imported
from lth_trainable.training.cohort import current_seat, forget_stack, in_cohort_of_one
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.lifecycle import NOTHING_MORE, Keep, OnState, ShouldStop, TrialLifecycle, never
from lth_trainable.training.profile import ProfileWatch, measured, settle_on
from lth_trainable.training.restored import Restored
from lth_trainable.training.sharing import about_gpu, in_bounds, no_room_told
from lth_trainable.training.trial import OnEpoch, Trial

T = TypeVar("T")
SEALINGS = 5  # attempts to record a trial whose final state others are storing at the same time


def run_trial(
    spec: TrialSpec,
    store: Store,
    run: str = "alone",
    execution: Execution | None = None,
    on_epoch: OnEpoch | None = None,
    *,
    keep: Keep = NOTHING_MORE,
    on_state: OnState | None = None,
    on_note: OnState | None = None,
    should_stop: ShouldStop = never,
    restored: Restored | None = None,
) -> dict[str, Any]:
    """Train the missing epochs of a trial, seal it in the store under `run` and return its record.

    on_epoch: called after each epoch with all rows of the trial so far, including inherited ones. on_state: called with
    the key of each state stored on the way. on_note: called with a message for each damaged state, and if a step cannot
    be captured as a CUDA graph. should_stop: looked at after each epoch; if true, the state of the epoch is stored and
    told to `on_state`, which may end the trial. restored: where the trial goes on, if it starts from the checkpoint of
    another with other settings. If the loss is not finite, the record has the status "diverged". Raises
    `UserError` if the trial cannot run, for example if the device's memory is too small. Afterwards GPU memory is free
    again, except that of the data.
    """
    execution = execution or Execution()

    def train() -> dict[str, Any]:
        with running(execution.profile):
            return _run(spec, store, run, execution, on_epoch, keep, on_state, on_note, should_stop, restored)

    return _in_its_place(train, execution, spec)


def record_covered(store: Store, run: str, trial: Identity) -> dict[str, Any] | None:
    """Record a trial whose every epoch other trials have trained, without a network; None if it needs training.

    Damaged states are left to `run_trial`, which sets them aside.
    """
    if not can_record(store, trial):
        return None
    try:
        for key in trial.state_keys.values():
            folder = store.find(store.state(key, trial.fingerprint))
            for name in folder.manifest["files"] if folder is not None else ():
                store.content(folder, name)  # type: ignore[arg-type]
        return record_trial(store, run, trial)
    except Damaged:
        return None


def train_state(spec: TrialSpec, store: Store, execution: Execution) -> None:
    """Train a trial to its end and store the states that a record would refer to, without a record of it.

    Raises `UserError` if the device's memory is too small.
    """

    def train() -> None:
        trial = _trial_of(spec, store, execution, None)
        TrialLifecycle(trial, States(store, fingerprint(execution, spec)), NOTHING_MORE, None).run()

    _in_its_place(train, execution, spec)


def _in_its_place(train: Callable[[], T], execution: Execution, spec: TrialSpec) -> T:
    """Train a trial as a member of the cohort of this thread, of one of its own, or without one."""
    if current_seat() is not None:
        with no_room_told(execution, spec):
            return train()
    if execution.replicas > 1:
        return in_cohort_of_one(train, execution, spec)
    forget_stack(execution)
    with in_bounds(execution, spec):
        return train()


def _run(
    spec: TrialSpec,
    store: Store,
    run: str,
    execution: Execution,
    on_epoch: OnEpoch | None,
    keep: Keep,
    on_state: OnState | None,
    on_note: OnState | None,
    should_stop: ShouldStop,
    restored: Restored | None,
) -> dict[str, Any]:
    trial = _trial_of(spec, store, execution, on_epoch)
    profile = _watched(trial)
    lifecycle = TrialLifecycle(
        trial, States(store, fingerprint(execution, spec)), keep, on_state, should_stop, restored
    )
    lifecycle.run()
    for note in (*(f"damaged, trained again: {report}" for report in lifecycle.states.set_aside), *trial.notes):
        if on_note is not None:
            on_note(note)
    seconds = time.perf_counter() - trial.started
    for _ in range(SEALINGS):
        record = record_trial(
            store,
            run,
            lifecycle.identity,
            seconds=seconds,
            epochs_trained=trial.log.trained,
            profile=profile(),
            gpu=about_gpu(execution),
        )
        if record is not None:
            return record
        lifecycle.end_again()
    raise AssertionError("a state of the trial was deleted while it was sealed; run the trial again")


def _trial_of(spec: TrialSpec, store: Store, execution: Execution, on_epoch: OnEpoch | None) -> Trial:
    with part("data"):
        data = load_dataset(spec.dataset, execution.data_root, spec.split_seed, spec.image_size)
    imported = (
        find_imported(store, spec.ticket_id.digest)
        if spec.ticket_id is not None and spec.starts_from_imported
        else None
    )
    return Trial(spec, data, execution, on_epoch, imported)


def _watched(trial: Trial) -> Callable[[], dict[str, Any] | None]:
    """Have a trial's fits measured, if it is profiled. Returns what reads the profile; it gives None if not."""
    stopwatch = current()
    if stopwatch is None:
        return lambda: None
    watch = ProfileWatch(stopwatch)
    stopwatch.settle = settle_on(torch.device(trial.execution.device))
    trial.learn.add_cbs(watch.beside)
    return lambda: measured(stopwatch, watch, trial)
