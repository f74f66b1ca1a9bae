"""The clock of a trial: how much training is in its weights, counted from the initialisation.

A ticket that is rewound to epoch k has the training of k epochs in its weights, and the dense network needs that too.
So what a ticket needs counts from the initialisation: k, and what follows its last prune. A trial whose weights are not
rewound (fine-tuning, learning-rate rewinding, gradual pruning) has been trained by other levels or under other masks
before its last prune, so it has no such clock.
"""

from __future__ import annotations

import math
from typing import Any

from analysis.tables.schema import Row
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.spec.values import rewinds

FROM_INIT = "early_stop_from_init"


def clock_columns(row: Row) -> dict[str, Any]:
    """The column of trials.parquet that follows from the clock: iterations to the early stop, from the initialisation.

    None if the trial has no early stop or no clock.
    """
    before, stop = iterations_before(row), row.get("early_stop_iteration")
    return {FROM_INIT: None if before is None or stop is None else before + stop}


def iterations_before(row: Row) -> int | None:
    """Iterations that are in the weights from which the last level of a trial is trained; None if it has no clock.

    row: of trials.parquet. None also if they are not known yet, because no record says how many images there are.
    """
    if _is_new(row):
        return 0
    if not has_clock(row):
        return None
    if row["rewind_step"] is not None:
        return int(row["rewind_step"])
    steps = steps_an_epoch(row)
    if not row["rewind_epoch"]:
        return 0
    return None if steps is None else row["rewind_epoch"] * steps


def epochs_before(row: Row) -> int | None:
    """The same in whole epochs: the epoch in which a rewind to an iteration lies is trained to its end by the level."""
    if row.get("rewind_step") is None or _is_new(row):
        return 0 if _is_new(row) else (row["rewind_epoch"] or 0) if has_clock(row) else None
    steps = steps_an_epoch(row)
    return None if steps is None or not has_clock(row) else row["rewind_step"] // steps


def has_clock(spec: Row) -> bool:
    """Whether the weights of tickets with these fields are rewound, so that their training can be counted."""
    return rewinds(spec["retrain"], reset_end=False) and not spec["reset_end"]


def steps_an_epoch(row: Row) -> int | None:
    """Optimiser steps of an epoch; None if the number of training images is not known."""
    return math.ceil(row["n_train"] / row["batch_size"]) if row.get("n_train") and row["batch_size"] else None


def _is_new(row: Row) -> bool:
    """Whether its last level begins at an initialisation: a dense network, or a control that starts over."""
    control = CONTROLS.get(str(row["control"]))
    return row["control"] == "dense" or (control is not None and control.starts_over)
