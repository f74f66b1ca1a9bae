"""A search with `--replicas`: suggestions are asked for together, so that their trials make cohorts. Without Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.run import Keep, run_trial
from lth_trainable.tune.reports import MEMBERS
from sweeps.experiments.recipes import digits
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import PlannedTrial, make_plan
from sweeps.running.cohorts import ALONE, Cohorts, Start, shapes_of
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from sweeps.runs.ledger import Ledger
from sweeps.search.axes import Choice, Range
from sweeps.search.searches import Search
from sweeps.search.study import ON_WAY, Study
from sweeps.search.suggestions import Suggestions
from tests.support.searches import RUN, Searched, facts_of

K = 6
SEARCH = Search(
    sweep=replace(digits(), name=RUN, seeds=(0, 1), base={"epochs": 1}, axes={}),
    axes={
        "target_sparsity_pct": Range(low=50.0, high=90.0), "lr": Range(low=3e-4, high=3e-3, log=True),
        "prune_rate_pct": Choice(values=(40.0, 60.0)),
    },
    suggestions=7,
).check()  # fmt: skip


class Lab(Searched):
    """A search whose cohorts are trained in this process, one after another. cohorts: names of the members of each."""

    def __init__(self, folder: Path, search: Search = SEARCH, replicas: int = K) -> None:
        self.store = Store(folder)
        ledger = Ledger(store=self.store, run=RUN, plan=make_plan((), {}), facts={})
        self.study = Study(search, self.store, RUN)
        self.source = Suggestions(self.study, search, ledger, facts_of, ["test"])
        self.dispatcher = Dispatcher(ledger.plan, (), (), 1, self.source.rank_of, replicas=replicas)
        self.searcher = PlanSearcher(
            self.dispatcher, Spent(), Budget(), self.config, lambda *_: False, self.source,
            covered_in_ray=1000, cohorts=Cohorts(replicas, shapes_of(ledger)),
        )  # fmt: skip
        self.cohorts: list[list[str]] = []
        self.most_open = 0

    def config(self, trial: PlannedTrial, start: Start = ALONE) -> dict[str, Any]:
        return {"trials": [trial, *start.others], "recorded": start.recorded}

    def work(self, most: int = 1000, killed_after: int | None = None) -> bool:
        """Train cohorts until the search is over, or as many as this; whether it is over.

        killed_after: so many members of the last of these cohorts have ended then.
        """
        for number in range(most):
            config: Any = self.searcher.suggest(f"t{number}")
            if config == PlanSearcher.FINISHED:
                self.study.close()
                return True
            if config is not None:
                is_last = killed_after is not None and number == most - 1
                self.train(f"t{number}", config, killed_after if is_last else None)
        return False

    def train(self, trial_id: str, config: Mapping[str, Any], killed_after: int | None) -> None:
        if config["recorded"]:
            self.searcher.on_trial_complete(trial_id, {})
            return
        self.cohorts.append([trial.name for trial in config["trials"]])
        open_ = [suggestion for suggestion in self.source.open if not suggestion.asked.on_way]
        self.most_open = max(self.most_open, len(open_))
        parts: dict[str, Any] = {}
        for trial in config["trials"][:killed_after]:
            stored: list[str] = []
            plan = self.dispatcher.plan
            keep = Keep(states=plan.keep(trial), mid_epoch_points=plan.rewind_steps(trial))
            record = run_trial(trial.spec, self.store, RUN, keep=keep, on_state=stored.append)
            part = {"status": record["status"], "epochs_done": record["epochs_trained"]}
            part["covered"] = record["epochs_trained"] == 0
            parts[trial.name] = part
            report = {"stored": stored, "fingerprint": json.dumps(fingerprint(Execution())), "epochs_done": 0}
            self.searcher.on_trial_result(trial_id, {**report, MEMBERS: json.dumps({trial.name: part})})
            while isinstance(self.searcher.suggest("asked meanwhile"), dict):  # one to list; Tune asks at any time
                self.searcher.on_trial_complete("asked meanwhile", {})
        if killed_after is None:
            first = parts[config["trials"][0].name]
            self.searcher.on_trial_complete(trial_id, {**first, MEMBERS: json.dumps(parts)})

    def check_complete(self) -> None:
        """Every suggestion was told once, with the means of its own trials' records."""
        trials, records = self.study.trials(), self.records
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert sum(ON_WAY not in trial.user_attrs for trial in trials) == SEARCH.suggestions
        for trial in trials:
            of = [records[name] for name in trial.user_attrs["trials"]]
            tickets = [record["result"] for record in of if record["spec"]["control"] == "none"]
            expected = [fmean(result[name] for result in tickets) for name in ("valid_accuracy", "sparsity_pct")]
            assert (trial.state.name, trial.values) == ("COMPLETE", expected)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("done"))
    assert lab.work()
    return lab


def test_suggestions_are_asked_for_until_a_cohort_is_full(done: Lab) -> None:
    done.check_complete()
    assert done.most_open == K // 2  # of two seeds each
    trials = [trial.user_attrs["trials"] for trial in done.study.trials()[: K // 2]]
    dense = {name for names in trials for name in names if "dense" in name}
    tickets = {name for names in trials for name in names if "dense" not in name}
    assert [set(members) for members in done.cohorts[:2]] == [dense, tickets] and len(tickets) == len(dense) == K


def test_the_end_of_a_search_is_no_larger_than_asked_for(tmp_path: Path) -> None:
    lab = Lab(tmp_path, replace(SEARCH, suggestions=1))
    assert lab.work()
    assert sum(ON_WAY not in trial.user_attrs for trial in lab.study.trials()) == 1 and lab.most_open == 1


def test_fewer_replicas_than_seeds_train_one_suggestion_at_a_time(tmp_path: Path) -> None:
    lab = Lab(tmp_path, replace(SEARCH, suggestions=2, sweep=replace(SEARCH.sweep, seeds=(0, 1, 2))), replicas=2)
    assert lab.work()
    assert lab.most_open == 1 and max(map(len, lab.cohorts)) == 2


@pytest.mark.parametrize(
    ("cohort", "ended"),
    [(1, 4), (2, 3), (4, 1), *(pytest.param(*at, marks=pytest.mark.slow) for at in [(1, 0), (2, 0), (2, 6), (4, 5)])],
)
def test_a_search_that_is_killed_within_a_cohort_goes_on_and_loses_nothing(
    done: Lab, tmp_path: Path, cohort: int, ended: int
) -> None:
    first = Lab(tmp_path)
    assert not first.work(most=cohort, killed_after=ended)
    asked = [row for row in first.told if row[1] != "WAITING"]
    recorded = set(first.records)
    second = Lab(tmp_path)
    assert second.work()
    second.check_complete()
    assert [row[2] for row in second.told[: len(asked)]] == [row[2] for row in asked], "the same points again"
    assert not recorded & {name for members in second.cohorts for name in members}, "what is done is not done again"
    told = [number for number, state, _, _ in asked if state == "COMPLETE"]
    if len(told) in (0, K // 2):  # between two rounds: what is asked for next depends on the same results
        assert second.told[:K] == done.told[:K]
