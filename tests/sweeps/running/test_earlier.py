"""Ray's own results list every trial of a sweep: those it ran, those others had trained, those of earlier commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.tune import ExperimentAnalysis, ResultGrid

from lth_trainable import Store, load_trial
from lth_trainable.tune.config import TASK
from sweeps import Sweep
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import PlannedTrial
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from tests.support.launches import LAUNCH, listed, results_with
from tests.support.plans import dense, imp, planned
from tests.support.runs import DENSE, LADDER, sweep


def read_again(store: Store) -> ResultGrid:
    return ResultGrid(ExperimentAnalysis(str(Path(store.root, "digits", "ray", LAUNCH))))


def test_trials_of_earlier_commands_are_listed_with_config_metrics_and_checkpoint(store: Store) -> None:
    plan = sweep(store, "digits", [DENSE, *LADDER])
    results_with(store, [DENSE.name])
    assert listed(store, plan) == 0
    found = {Path(result.path).name: result for result in read_again(store)}
    assert list(found) == [trial.name for trial in plan.trials] and not read_again(store).errors
    for spec in LADDER:
        result, record = (
            found[spec.name],
            json.loads(Path(store.root, "digits/trials", spec.name, "record.json").read_text()),
        )
        assert result.config["target_sparsity_pct"] == spec.target_sparsity_pct and TASK in result.config
        assert result.metrics["test_accuracy"] == record["result"]["test_accuracy"]
        assert list(result.metrics_dataframe["valid_accuracy"]) == [row["valid_accuracy"] for row in record["epochs"]]
        zeros = float((load_trial(result.checkpoint).get_parameter("1.weight") == 0).float().mean())
        assert zeros == pytest.approx(spec.target_sparsity_pct / 100, abs=1e-3)
    best = read_again(store).get_best_result("test_accuracy", "max")
    assert best.metrics["test_accuracy"] == max(r.metrics["test_accuracy"] for r in found.values())
    assert len(ExperimentAnalysis(str(Path(store.root, "digits", "ray", LAUNCH))).dataframe()) == 3


def test_only_as_many_are_listed_as_the_limit_allows_and_a_damaged_one_is_left_out(store: Store) -> None:
    plan = sweep(store, "digits", [DENSE, *LADDER])
    results_with(store, [DENSE.name])
    assert listed(store, plan, 1) == 1 and len(read_again(store)) == 2
    (Path(store.root) / "digits" / "ray" / LAUNCH).rename(Path(store.root) / "away")
    Path(store.root, "digits", "trials", LADDER[0].name, "record.json").write_text("{")
    results_with(store, [DENSE.name])
    assert listed(store, plan) == 0
    assert {Path(result.path).name for result in read_again(store)} == {DENSE.name, LADDER[1].name}


def run_with(limit: int) -> tuple[list[str], list[str], int]:
    """Which trials of some ladders Ray is given and which the driver records, and how many others have trained."""
    plan = planned([*dense(6, epochs=20), *imp((1, 2), (0,), 6, epochs=20)])
    given, recorded = [], []  # type: ignore[var-annotated]

    def record(trial: PlannedTrial, mark: Mapping[str, Any]) -> bool:
        recorded.append(trial.name)
        return True

    dispatcher = Dispatcher(plan, (), (), 1)
    searcher = PlanSearcher(
        dispatcher, Spent(), Budget(), lambda trial: {"name": trial.name}, record, covered_in_ray=limit
    )
    while isinstance(config := searcher.suggest(number := str(len(given))), dict):
        given.append(config["name"])
        trial = searcher.trials[number]
        covered = trial.end.key in dispatcher.stored
        stored = [] if covered else [node.key for node in trial.end.path()]
        searcher.on_trial_result(number, {"stored": stored, "fingerprint": "{}", "epochs_done": 1, "level": 0})
        searcher.on_trial_complete(number, {"status": "done", "covered": covered, "epochs_done": 0})
    assert config == PlanSearcher.FINISHED
    assert {*given, *recorded} == {trial.name for trial in plan.trials} and len(given) + len(recorded) == 18
    return given, recorded, searcher.spent.shared


def test_so_many_covered_trials_are_ray_trials_and_the_driver_records_the_rest() -> None:
    given, recorded, covered = run_with(0)
    trained = len(given)
    assert len(recorded) == covered == 18 - trained > 3
    for limit in (1, 3, covered, 1000):
        given, recorded, shared = run_with(limit)
        assert len(given) == trained + min(limit, covered) and len(recorded) == max(0, covered - limit)
        assert shared == covered


@pytest.mark.slow
def test_a_sweep_that_is_resumed_and_extended_lists_every_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small: dict[str, Any] = {"epochs": 2, "rewind_epoch": 1, "max_concurrent": 1, "controls": "none"}

    def results() -> ResultGrid:
        return ResultGrid(ExperimentAnalysis(str(sorted((tmp_path / "digits" / "ray").iterdir())[-1])))

    Sweep("digits", sparsity=64, seeds=2, **small).run(tmp_path)
    assert len(results()) == 4
    run = Sweep("digits", sparsity=[40, 64], seeds=3, **small).run(tmp_path)
    names = {Path(result.path).name for result in results()}
    assert names == set(run.trials().trial) and len(names) == 9
    assert all(result.config and result.metrics["test_accuracy"] and result.checkpoint for result in results())
    assert "max-covered-in-ray" not in capsys.readouterr().out
    run = Sweep("digits", sparsity=[40, 64], seeds=4, **small).run(tmp_path, max_covered_in_ray=2)
    assert len(run.trials()) == 12
    said = capsys.readouterr().out
    assert f"{12 - len(results())} trials that others had trained are not in Ray's own results" in said
    assert 2 + 2 <= len(results()) < 12, "what this launch trained, and two more"
