"""How long a sweep will take, from a measured rate: of this storage's own trials, or of a few steps taken now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from lth_trainable.spec import TrialSpec
from lth_trainable.store import Damaged, finished_trials
from sweeps.ledger import Ledger

WARM_UP_SECONDS = 12.0  # Ray, and torch and fastai in each worker, on two cores
PROBE_SECONDS = 2.0


def seconds_per_epoch(ledger: Ledger, specs: Sequence[TrialSpec], data_root: Path | None) -> tuple[float, str]:
    """Seconds an epoch takes on one worker, and where the figure comes from."""
    known = _recorded(ledger)
    return (known, "measured in this run") if known else (_probe(specs[0], data_root), "measured just now, on the CPU")


def sweep_seconds(epochs: int, per_epoch: float, slots: int) -> float:
    """Wall seconds of a sweep: warm-up and epochs over the trials that run at once."""
    return WARM_UP_SECONDS + epochs * per_epoch / slots if epochs else 0.0


def _recorded(ledger: Ledger) -> float | None:
    try:
        rates = [
            record["train_seconds"] / record["epochs_trained"]
            for _, record in finished_trials(ledger.store, ledger.run)
        ]
    except Damaged:
        return None
    return median(rates) if rates else None


def _probe(spec: TrialSpec, data_root: Path | None) -> float:
    """Train the trial's dense network for about `PROBE_SECONDS`; nothing is stored."""
    from lth_trainable.execution import Execution
    from lth_trainable.run import seconds_per_epoch as measure

    return measure(spec, Execution(data_root=data_root), PROBE_SECONDS)
