"""Launches without Ray: what a sweep leaves of its results, and one whose trials are trained in this process."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from ray.tune import ExperimentAnalysis, PlacementGroupFactory, ResultGrid
from ray.tune.experiment import Trial

from lth_trainable import Store, run_trial
from lth_trainable.store.record import Identity, record_trial
from lth_trainable.training.execution import Execution, fingerprint
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.config import Config
from sweeps.running.launch import Outcome, _list_earlier
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from sweeps.runs.ledger import Ledger

LAUNCH = "20261129-060000-abcdef"


def results_with(store: Store, names: list[str]) -> ResultGrid:
    """The results of a launch in which Ray has run these trials, written as Ray writes them."""
    from ray.train._internal.storage import StorageContext

    folder = Path(store.root, "digits", "ray", LAUNCH)
    trials = []
    for name in names:
        storage = StorageContext(storage_path=str(folder.parent), experiment_dir_name=LAUNCH, trial_dir_name=name)
        trial = Trial("train", config={"seed": 0}, storage=storage, stub=True, _setup_default_resource=False)
        trial.placement_group_factory = PlacementGroupFactory([{"CPU": 1}])
        trial.set_status(Trial.TERMINATED)
        trial.update_last_result({"test_accuracy": 0.5, "config": trial.config})
        trials.append(trial)
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text('{"test_accuracy": 0.5}\n')
    state = {"trial_data": [trial.get_json_state() for trial in trials], "runner_data": {}, "stats": {}}
    (folder / "experiment_state-2026-11-29_06-00-00.json").write_text(json.dumps(state))
    return ResultGrid(ExperimentAnalysis(str(folder)))


def listed(store: Store, plan: Plan, limit: int = 1000) -> int:
    """Let Ray's results list what is done without a Ray trial; returns how many are left out."""
    searcher = PlanSearcher(
        Dispatcher(plan, {trial.name for trial in plan.trials}, (), 1), Spent(), Budget(), dict, lambda *_: False,
        covered_in_ray=limit,
    )  # fmt: skip
    config = Config(ledger=Ledger(store=store, run="digits", plan=plan, facts={}), execution={}, launch=LAUNCH)
    folder = Path(store.root, "digits", "ray", LAUNCH)
    return _list_earlier(ResultGrid(ExperimentAnalysis(str(folder))), searcher, config)


def launch_here(ledger: Ledger, dispatcher: Dispatcher, *_: Any, source: Any = None, **__: Any) -> Outcome:
    """What `sweeps.running.launch.launch` does, with the trials in this process, one after the other."""

    def record(trial: PlannedTrial, mark: Any) -> bool:
        identity = Identity(spec=trial.spec, key=trial.key, chain=trial.chain, fingerprint=mark)
        return record_trial(ledger.store, ledger.run, identity) is not None

    searcher = PlanSearcher(dispatcher, Spent(), Budget(), lambda trial: {"trial": trial}, record, source)
    for number in itertools.count():
        config: Any = searcher.suggest(f"t{number}")
        if config == PlanSearcher.FINISHED:
            break
        if config is not None:  # else all that was planned was trained already; Tune asks again
            run_trial(config["trial"].spec, ledger.store, ledger.run)
            told = {
                "status": "done",
                "epochs_done": 1,
                "stored": [],
                "fingerprint": json.dumps(fingerprint(Execution())),
            }
            searcher.on_trial_complete(f"t{number}", told)
    return Outcome(epochs=0, failures={}, interrupted=False)
