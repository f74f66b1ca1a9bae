"""Runs that are trained here, without a command and without Ray: each trial keeps what the plan of the run says."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import PLAN, Store, to_json
from lth_trainable.training.run import Keep, run_trial
from sweeps.planning.plan import Facts, Plan, make_plan

LADDER = [TrialSpec(target_sparsity_pct=pct, epochs=2, rewind_epoch=1) for pct in (40.0, 64.0)]
DENSE = TrialSpec(control="dense", epochs=2)
OTHER = TrialSpec(control="dense", epochs=1, seed=1)
LONGER = TrialSpec(target_sparsity_pct=78.4, epochs=2, rewind_epoch=1)


def copied(run: Path, to: Path) -> Path:
    """The same run in a copy of its whole storage, which a test may change."""
    return Path(shutil.copytree(run.parent, to)) / run.name


def plan_of(specs: Sequence[TrialSpec], policy: str = "needed") -> Plan:
    data = load_dataset("digits")
    return make_plan(specs, {("digits", 0): Facts(digest=data.digest, n_train=len(data.train))}, policy)


def write_plan(store: Store, run: str, specs: Sequence[TrialSpec], policy: str = "needed", **more: Any) -> Plan:
    plan, data = plan_of(specs, policy), load_dataset("digits")
    trials = [
        {
            "name": trial.name, "key": trial.key, "spec": trial.spec.canonical(),
            "data": {"digest": data.digest, "n_train": len(data.train)},
        }
        for trial in plan.trials
    ]  # fmt: skip
    content = {
        "format": 1, "commands": [], "recipe": "digits", "claim": "Do they?", "endpoint": "test_accuracy",
        "margin_pp": 0.5, "alpha": 0.05, "versions": {}, "keep_states": policy, "trials": trials, **more,
    }  # fmt: skip
    store.write(f"{run}/{PLAN}", to_json(content))
    return plan


def sweep(store: Store, run: str, specs: Sequence[TrialSpec], policy: str = "needed") -> Plan:
    """A run with all its trials trained, each keeping what the plan says."""
    plan = write_plan(store, run, specs, policy)
    for trial in plan.trials:
        run_trial(trial.spec, store, run, keep=Keep(states=plan.keep(trial), resumable=policy != "none"))
    return plan
