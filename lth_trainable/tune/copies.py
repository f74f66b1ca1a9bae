"""A copy of a network, for the analysis of barriers, as a trial of Ray Tune. Loads torch; does not import Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lth_trainable.store.store import Store
from lth_trainable.training.copy_task import CopyTask, check_here, make_copy, start_of
from lth_trainable.training.sharing import in_bounds
from lth_trainable.training.trial import OnEpoch
from lth_trainable.tune.reports import epoch_metrics


def train_copy_trial(
    store: Store, task: Mapping[str, Any], on_epoch: OnEpoch
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Train and store the copy of a task; returns its last report, and the fingerprint under which it was trained.

    task: of a sweep's trial, with the entry `copy`. on_epoch: called after each epoch with all rows so far. Raises
    `UserError` if this process could not make the copy that was planned.
    """
    copy, data_root = CopyTask(**task["copy"]), task["execution"].get("data_root")
    execution = replace(
        copy.execution(data_root and Path(data_root), task["execution"].get("step", "captured")),
        trials_on_gpu=task["execution"].get("trials_on_gpu", 1),
    )
    rows: list[dict[str, Any]] = []

    def noted(so_far: list[dict[str, Any]]) -> None:
        rows[:] = so_far
        on_epoch(so_far)

    with in_bounds(execution, copy.spec_of_trial):
        check_here(copy, execution)
        found = make_copy(store, copy, start_of(store, copy, execution), noted)
    measured = {} if found.diverged else {"test_accuracy": found.evaluation["test"][1]}
    status = "diverged" if found.diverged else "done"
    last = epoch_metrics(rows[-1]) if rows else {}
    return {"epochs_done": len(rows), "status": status, "covered": False, **last, **measured}, copy.fingerprint
