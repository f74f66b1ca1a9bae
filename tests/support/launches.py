"""Experiments of Ray Tune as a launch of a sweep leaves them, written without running Ray."""

from __future__ import annotations

import json
from pathlib import Path

from ray.tune import ExperimentAnalysis, PlacementGroupFactory, ResultGrid
from ray.tune.experiment import Trial

from lth_trainable import Store
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan
from sweeps.running.launch import Config, _list_earlier
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
