"""What a worker gets for a trial: the config of its Ray trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lth_trainable.spec.chain_json import chain_as_json
from lth_trainable.tune.config import CHAIN, MEMBERS, TASK, as_member
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.cohorts import ALONE, Start
from sweeps.running.packing import Place
from sweeps.runs.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Config:
    """Builds what a worker gets for a trial. launch: its name, under which the driver asks its trials to stop.

    marker: file that a worker must see in a cluster's storage before it trains. log: whether its reports include rows
    for the loggers. silence: seconds without a step after which a trial is ended; None follows its pace, 0 is no limit.
    """

    ledger: Ledger
    execution: Mapping[str, Any]
    launch: str = ""
    marker: str | None = None
    log: bool = False
    silence: float | None = None

    def of(self, plan: Plan, trial: PlannedTrial, place: Place | None = None, start: Start = ALONE) -> dict[str, Any]:
        """The config of a Ray trial: the spec's fields that have a value, and the task, which is for the worker only.

        place: on a GPU of this machine. start: with whom it trains. The task is one string: Tune copies, flattens and
        writes it with every result.
        """
        fields = {name: value for name, value in trial.spec.canonical().items() if value is not None}
        shared = {"trials_on_gpu": place.sharing} if place is not None else {}
        task = {
            **_own_task(plan, trial), "storage": self.ledger.store.uri, "shared": self.marker, "launch": self.launch,
            "run": self.ledger.run, "execution": {**self.execution, **shared}, "resumable": plan.policy != "none",
            "log": self.log, "silence": self.silence, "place": place and place.as_json(),
            **({} if trial.copy is None else {"copy": dict(trial.copy)}),
        }  # fmt: skip
        task |= {"attempt": start.attempt} if start.attempt else {}
        if start.others or start.recorded:  # it may end without a report of its own, and is then listed by its record
            task |= {CHAIN: chain_as_json(trial.chain), "recorded": start.recorded}
        if start.others:
            members = [as_member(_own_task(plan, each), task, each.spec, trial.spec) for each in start.others]
            task |= {MEMBERS: members, "cohort": f"{self.launch}/{start.number}"}
        return {**fields, TASK: json.dumps(task, default=str)}


def _own_task(plan: Plan, trial: PlannedTrial) -> dict[str, Any]:
    """The part of a task that differs between the members of a cohort."""
    return {
        "trial": trial.name, "spec": trial.spec.canonical(), "key": trial.key, "keep": plan.keep(trial),
        "marks": plan.rewind_steps(trial), "end": trial.end.key,
    }  # fmt: skip
