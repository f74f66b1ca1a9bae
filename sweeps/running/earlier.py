"""Let Ray's results of a launch also list the trials that earlier commands, or the driver itself, have recorded.

Ray makes the files of an experiment for the trials that it has run. Those of an earlier start of a sweep have finished,
and starting Ray trials for them would cost time for nothing. So their results are written beside, as Ray writes them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lth_trainable.spec.segments import recorded_keys
from lth_trainable.store.checkpoint import CHECKPOINT, content_at
from lth_trainable.store.record import Identity
from lth_trainable.store.store import Damaged, map_in_threads
from lth_trainable.tune.reports import last_report, results_of
from sweeps.planning.plan import PlannedTrial
from sweeps.running.ray_adapter import list_too
from sweeps.runs.ledger import Ledger

if TYPE_CHECKING:
    from ray import tune

RESULTS = "result.json"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A finished trial for Ray's results. last: its last report. checkpoint: its folder within the trial's; or None."""

    name: str
    config: Mapping[str, Any]
    last: Mapping[str, Any]
    checkpoint: str | None


def list_earlier(
    results: tune.ResultGrid, ledger: Ledger, launch: str, trials: Collection[PlannedTrial],
    config_of: Mapping[str, Mapping[str, Any]],
) -> None:  # fmt: skip
    """Add finished trials to the experiment of a launch: config, every epoch, and a checkpoint that names the states.

    config_of: by trial name. A trial whose record is damaged is left out; the next command trains it again.
    """
    made = map_in_threads(lambda trial: _written(ledger, launch, trial, config_of[trial.name]), list(trials))
    list_too(results, [vars(one) for one in made if one is not None])


def _written(ledger: Ledger, launch: str, trial: PlannedTrial, config: Mapping[str, Any]) -> Listed | None:
    try:
        record = ledger.read_record(trial.name)
    except Damaged:
        return None
    folder = f"{ledger.run}/ray/{launch}/{trial.name}"
    lines = results_of(record["epochs"], last_report(record, covered=record["epochs_trained"] == 0))
    ledger.store.write(f"{folder}/{RESULTS}", "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    about = _checkpoint(ledger, trial, record)
    checkpoint = None if about is None else f"checkpoint_{0:06d}"
    if about is not None:
        ledger.store.write(f"{folder}/{checkpoint}/{CHECKPOINT}", json.dumps(about).encode())
    return Listed(name=trial.name, config=config, last=lines[-1], checkpoint=checkpoint)


def _checkpoint(ledger: Ledger, trial: PlannedTrial, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The content of `checkpoint.json`, which refers to the store; None if the final state is not there."""
    identity = Identity(spec=trial.spec, key=trial.key, chain=trial.chain, fingerprint=record["fingerprint"])
    content = content_at(
        ledger.store, identity, recorded_keys(trial.spec, trial.chain)["final"], run=ledger.run,
        epochs=len(record["epochs"]), shape=tuple(record["data"]["shape"]), n_classes=record["data"]["n_classes"],
    )  # fmt: skip
    return None if content is None else content.about
