"""A Ray trial for a trial whose record is there already: it reads the record, reports it, and ends. Needs no torch.

So Ray's results list the members of cohorts, which were trained by the Ray trials of others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray import tune

from lth_trainable.spec.chain_json import chain_from_json
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.checkpoint import content_at
from lth_trainable.store.contents import read_record
from lth_trainable.store.record import Identity
from lth_trainable.store.store import Damaged, Store
from lth_trainable.tune.config import CHAIN
from lth_trainable.tune.ray_adapter import checkpoint, write_results
from lth_trainable.tune.reports import LOST, last_report, results_of


def tell_recorded(task: Mapping[str, Any]) -> None:
    """Report the record of the task's trial, with a checkpoint of its end. Without a record the trial is lost."""
    store = Store(task["storage"]).in_use()
    record = _record_of(store, task)
    if record is None:
        tune.report({"status": LOST, "epochs_done": 0, "done": True})
        return
    chain = chain_from_json(task[CHAIN])
    identity = Identity(
        spec=spec_from_dict(task["spec"]), key=task["key"], chain=chain, fingerprint=record["fingerprint"]
    )
    about = {"stored": [], "notes": [], "fingerprint": json.dumps(record["fingerprint"]), "done": True}
    report = {**last_report(record, covered=record["epochs_trained"] == 0), **about}
    write_results(results_of(record["epochs"], report))
    content = content_at(
        store, identity, identity.state_keys["final"], run=task["run"], epochs=len(record["epochs"]),
        shape=tuple(record["data"]["shape"]), n_classes=record["data"]["n_classes"],
    )  # fmt: skip
    with checkpoint(store, content) as made:
        tune.report(report, checkpoint=made)


def _record_of(store: Store, task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The record of the task's trial; None if there is none of the same key, or if it is damaged."""
    try:
        folder = store.find(store.trial(task["run"], task["trial"]))
        record = read_record(store, folder) if folder is not None else None
    except Damaged:  # the next command finds it
        return None
    return record if record is not None and record["key"] == task["key"] else None
