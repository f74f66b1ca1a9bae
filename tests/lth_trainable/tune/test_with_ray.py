"""`ticket_trainable` in Tuners of a user's own, with real Ray, which is started once for all tests here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch

import analysis
from lth_trainable import Store, TrialSpec, UserError, load_trial, run_trial, ticket_trainable
from lth_trainable.store.trials import finished_trials
from sweeps import Sweep
from tests.support.launches import listed, results_with
from tests.support.runs import DENSE, LADDER, sweep

FIELDS: dict[str, Any] = {"epochs": 2, "rewind_epoch": 1, "prune_rate_pct": 40.0, "threads": 1}
ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "ray_tune.md"


@pytest.fixture(scope="module")
def started() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", raising=False)  # a sweep in this process has set it
        ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
        yield
        ray.shutdown()


def fit(folder: Path, space: dict[str, Any], **more: Any) -> tune.ResultGrid:
    return tune.Tuner(
        ticket_trainable,
        param_space={**FIELDS, **space},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=2, **more),
        run_config=tune.RunConfig(name="experiment", storage_path=str(folder), verbose=0),
    ).fit()


def records(folder: Path) -> dict[str, dict[str, Any]]:
    store = Store(folder / "experiment" / "store")
    return {record["trial"]: record for _, record in finished_trials(store, "tune")}


def check_grid(results: tune.ResultGrid, folder: Path) -> None:
    """Each trial of the first seed has the bytes of the trial alone, all its epochs and a checkpoint at each level."""
    assert not results.errors and len(results) == 10
    trained = {record["trial"]: record for _, record in finished_trials(Store(folder / "tickets" / "store"), "tune")}
    for result in (result for result in results if result.config["seed"] == 0):
        spec = TrialSpec(**result.config)
        alone = run_trial(spec, Store(folder / "alone"))
        assert trained[spec.name]["sha256"] == alone["sha256"]
        frame = result.metrics_dataframe
        assert frame is not None
        assert list(frame["valid_accuracy"]) == [row["valid_accuracy"] for row in alone["epochs"]]
        assert list(frame["training_iteration"]) == list(range(1, len(alone["epochs"]) + 1))
        assert result.metrics["test_accuracy"] == alone["result"]["test_accuracy"]
        checkpoints = [checkpoint for checkpoint, _ in result.best_checkpoints]
        assert len(checkpoints) == (1 if spec.is_dense else spec.n_levels + 1)
        weights = Path(checkpoints[-1].path, "weights.safetensors")
        assert weights.stat().st_nlink > 1, "a link to the store's file"
        zeros = [float((load_trial(c).get_parameter("1.weight") == 0).float().mean()) for c in checkpoints]
        assert zeros == pytest.approx([0.0, 0.4, 0.64][: len(zeros)], abs=1e-3)
    best = results.get_best_result()
    assert best.metrics["valid_accuracy"] == max(result.metrics["valid_accuracy"] for result in results)


def test_the_blocks_of_the_page_run_and_their_trials_are_judged(
    started: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of docs/ray_tune.md, in one session of Ray. `runs/digits` is of a sweep whose trials were done before."""
    monkeypatch.chdir(tmp_path)
    plan = sweep(Store("runs"), "digits", [DENSE, *LADDER])
    results_with(Store("runs"), [trial.name for trial in plan.trials[:1]])
    listed(Store("runs"), plan)
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks):
        exec(compile(block, str(PAGE), "exec"), names)
        if number == 0:
            check_grid(names["results"], tmp_path / "results")
    assert len(blocks) == 4 and len(names["results"]) == 3
    run = names["run"]
    assert run.ok and not run.notes and run.folder == str(tmp_path / "results" / "tickets" / "store" / "tune")
    assert len(run.trials()) == 10 and run.verdicts().iloc[0].n_pairs == 5 and Path(run.report).is_file()
    assert len(names["frame"]) == 3 and names["frame"]["config/target_sparsity_pct"].notna().sum() == 2
    restored = tune.Tuner.restore(str(tmp_path / "results" / "tickets"), ticket_trainable).get_results()
    (tmp_path / "results" / "tickets").rename(tmp_path / "moved")
    again = analysis.adopt(tmp_path / "moved")
    assert again.verdicts().equals(run.verdicts()) and len(restored) == 10
    (tmp_path / "moved").rename(tmp_path / "results" / "tickets")
    assert analysis.adopt(restored).folder == run.folder
    with pytest.raises(UserError, match=r"found this process connected to a Ray; .*ray.shutdown\(\)"):
        Sweep("digits").run(tmp_path / "runs")


@pytest.mark.slow
def test_asha_stops_trials_early(started: None, tmp_path: Path) -> None:
    scheduler = ASHAScheduler(metric="valid_accuracy", mode="max", grace_period=2, max_t=100, reduction_factor=2)
    space = {"target_sparsity_pct": 87.0, "lr": tune.grid_search([1.2e-3, 1e-6, 1e-7, 1e-8])}
    results = fit(tmp_path, space, scheduler=scheduler)
    assert not results.errors
    lengths = {result.config["lr"]: result.metrics["training_iteration"] for result in results}
    whole = 2 + 4
    assert lengths[1.2e-3] == whole and min(lengths.values()) < whole
    assert set(records(tmp_path)) == {r.metrics["trial"] for r in results if "trial" in r.metrics}
    run = analysis.adopt(tmp_path / "experiment")
    n_stopped = sum("trial" not in r.metrics for r in results)
    assert sorted(run.trials().status) == ["done"] * (4 - n_stopped) + ["missing"] * n_stopped and not run.ok


@pytest.mark.slow
def test_optuna_searches_with_it(started: None, tmp_path: Path) -> None:
    space = {"lr": tune.loguniform(1e-4, 1e-2), "epochs": tune.quniform(1, 2, 1), "rewind_epoch": 0}
    results = fit(
        tmp_path, {**space, "target_sparsity_pct": 40.0}, num_samples=3,
        search_alg=OptunaSearch(metric="valid_accuracy", mode="max", seed=0),
    )  # fmt: skip
    assert not results.errors and len(records(tmp_path)) == 3


@pytest.mark.slow
def test_population_based_training_makes_restored_trials_that_say_so(started: None, tmp_path: Path) -> None:
    scheduler = PopulationBasedTraining(
        time_attr="levels_done", metric="valid_accuracy", mode="max", perturbation_interval=1, quantile_fraction=0.5,
        resample_probability=0.0, hyperparam_mutations={"lr": [1e-6, 1e-3, 2e-3]}, synch=True,
    )  # fmt: skip
    space = {"target_sparsity_pct": 78.0, "lr": tune.grid_search([1e-6, 1e-3])}
    results = fit(tmp_path, space, scheduler=scheduler)
    assert not results.errors
    found = records(tmp_path)
    restored = [record for record in found.values() if "restored" in record]
    assert restored and all("-restored-" in record["trial"] for record in restored)
    assert all(record["restored"]["from"] for record in restored)
    run = analysis.adopt(results)
    statuses = run.trials().set_index("trial").status
    assert all(statuses[record["trial"]] == "restored" for record in restored)
    assert any("no verdict counts it" in note for note in run.notes)
    assert not run.verdicts().group.str.contains("restored").any()


@pytest.mark.slow
def test_tuner_restore_goes_on_after_a_kill(started: None, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
import ray
from tests.lth_trainable.tune.test_with_ray import fit
from ray import tune
ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
fit(Path({str(tmp_path)!r}), {{"target_sparsity_pct": 98.0, "epochs": 20, "seed": tune.grid_search([0, 1])}})
"""
    folder = tmp_path / "experiment"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while len(list(folder.glob("*/checkpoint_*"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    results = tune.Tuner.restore(str(folder), ticket_trainable, resume_unfinished=True).fit()
    assert not results.errors and len(results) == 2
    for result in results:
        spec = TrialSpec(**{name: value for name, value in result.config.items() if name != "threads"})
        alone = run_trial(spec, Store(tmp_path / "alone"))
        assert records(tmp_path)[spec.name]["sha256"] == alone["sha256"]
        assert result.metrics["training_iteration"] == len(alone["epochs"])
