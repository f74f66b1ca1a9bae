"""What the analysis of barriers has to train, as a plan; carried out here as a worker does, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.barriers.ends import LEVELS, Between
from analysis.barriers.jobs import Settings
from analysis.barriers.work import Choice, work_of
from analysis.tables.run_plan import find_run
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.store import Store
from lth_trainable.training.run import Keep, run_trial
from lth_trainable.tune.config import task_of
from lth_trainable.tune.copies import train_copy_trial
from sweeps.planning.barrier_plan import plan_of
from sweeps.planning.dispatch import Dispatcher
from sweeps.running.config import Config
from sweeps.runs.ledger import Ledger
from tests.support.mirror import DENSE, TICKETS, train_lenets
from tests.support.runs import copied

TICKET = TICKETS[64.0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_lenets(tmp_path_factory.mktemp("lenets"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "runs")


def work(run: Path, between: Any = "copies") -> Any:
    store, name = find_run(str(run))
    settings = Settings(n_points=3)
    return work_of(Choice(store=store, run=name, between=between, names=(TICKET.name,), seeds=1, settings=settings))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tasks(run: Path, jobs: Any) -> list[tuple[str, Any]]:
    """Name and task of each trial, in the order in which a dispatcher of two slots hands them out."""
    plan, facts = plan_of(jobs)
    ledger = Ledger(store=Store(run.parent), run="run/barriers", plan=plan, facts=facts)
    config = Config(ledger=ledger, execution={"data_root": None, "threads": 1, "device": "cpu"})
    dispatcher, found = Dispatcher(plan, (), (), 2), []
    while (trial := dispatcher.next()) is not None:
        found.append((trial.name, task_of(config.of(plan, trial))))
    return found


def test_copies_of_a_plan_are_those_that_the_command_trains_alone(run: Path, tmp_path: Path) -> None:
    alone = copied(run, tmp_path / "alone")
    work(alone).do(lambda: None)
    found = tasks(run, work(run).jobs)
    assert sorted(name for name, _ in found) == sorted(
        f"{spec.name}-from0-order{seed}" for spec in (DENSE, TICKET) for seed in (1001, 1002)
    ), "all at once: copies do not wait for each other"
    for _, task in found:
        reports: list[int] = []
        report, _ = train_copy_trial(Store(run.parent), task, lambda rows, reports=reports: reports.append(len(rows)))
        assert report["status"] == "done"
        assert reports == list(range(1, DENSE.epochs + 1)), "each epoch is reported, so the trial can be ended there"
        assert 0.5 < report["test_accuracy"] < 1
    assert files(run / "barriers" / "copies") == files(alone / "barriers" / "copies")
    assert plan_of(work(run).jobs)[0].trials == (), "nothing is left to train"
    assert sorted(path.name for path in (run / "trials").iterdir()) == sorted(
        spec.name for spec in (DENSE, *TICKETS.values())
    ), "no copy is a trial of the run"


def test_a_copy_that_exists_is_not_planned_again(run: Path) -> None:
    (_, task), *others = tasks(run, work(run).jobs)
    train_copy_trial(Store(run.parent), task, lambda _: None)
    assert [name for name, _ in tasks(run, work(run).jobs)] == [name for name, _ in others]


def test_a_copy_of_another_fingerprint_is_refused_by_the_worker(run: Path) -> None:
    (_, task), *_ = tasks(run, work(run).jobs)
    other = {**task, "copy": {**task["copy"], "fingerprint": {**task["copy"]["fingerprint"], "torch": "another"}}}
    with pytest.raises(UserError, match="another fingerprint"):
        train_copy_trial(Store(run.parent), other, lambda _: None)
    assert not (run / "barriers").exists()


def test_missing_levels_are_trials_that_start_from_the_stored_ones(run: Path) -> None:
    between: Between = LEVELS
    found = tasks(run, work(run, between).jobs)
    ((name, task),) = found
    assert "s40" in name, "level 1, at which no trial of the run ends"
    assert "copy" not in task
    record = run_trial(
        spec_from_dict(task["spec"]), Store(run.parent), task["run"],
        keep=Keep(states=task["keep"], resumable=task["resumable"]),
    )  # fmt: skip
    assert record["epochs_trained"] == TICKET.epochs, "the dense network is not trained again"
    assert (run / "barriers" / "trials" / name / "record.json").exists()
    again = work(run, between)
    assert again.cost.networks_left == 0
    assert plan_of(again.jobs)[0].trials == ()
    assert {row["connected"] for row in again.do(lambda: None)} == {True}
    assert json.loads((run / "plan.json").read_bytes())["trials"], "the run's plan is as it was"
