"""Estimate the time and disk space of a sweep: from this run's finished trials, or from a few training steps now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Damaged
from lth_trainable.store.trials import finished_trials
from sweeps.planning.work import Work
from sweeps.runs.ledger import Ledger

WARM_UP_SECONDS = 12.0  # to start Ray, and to import torch and fastai in each worker, on two cores
PROBE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The estimated cost of a sweep.

    seconds: wall time. bytes: of the states it will store. per_epoch: seconds. source: how per_epoch was measured.
    """

    seconds: float
    bytes: int
    per_epoch: float
    source: str


def estimate(ledger: Ledger, work: Work, slots: int, data_root: Path | None) -> Cost:
    """Time and disk space of the work that is left, with `slots` trials at the same time."""
    spec = next(trial.spec for trial in ledger.plan.trials if trial.name in work.of_trial)
    per_epoch, bytes_per_state = _probe(spec, data_root)
    recorded = _recorded(ledger)
    epochs = max(work.critical_path, work.epochs / slots)
    return Cost(
        seconds=WARM_UP_SECONDS + epochs * (recorded or per_epoch),
        bytes=bytes_per_state * len(work.nodes) if ledger.plan.policy != "none" else 0,
        per_epoch=recorded or per_epoch,
        source="measured in this run" if recorded else "measured just now, on the CPU",
    )


def _recorded(ledger: Ledger) -> float | None:
    try:
        seconds = [_seconds(record) for _, record in finished_trials(ledger.store, ledger.run)]
    except Damaged:
        return None
    return median(seconds) if seconds else None


def _seconds(record: dict[str, Any]) -> float:
    return median(row["seconds"] for row in record["epochs"])


def _probe(spec: TrialSpec, data_root: Path | None) -> tuple[float, int]:
    """Seconds per epoch and bytes per state, measured by training the dense network for a moment. Stores nothing."""
    from lth_trainable.training.execution import Execution
    from lth_trainable.training.run import probe

    return probe(spec, Execution(data_root=data_root), PROBE_SECONDS)
