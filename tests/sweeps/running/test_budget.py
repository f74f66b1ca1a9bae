"""A sweep that may not go on for ever: what is trained when it stops stays, and nothing of it is trained again."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lth_trainable.errors import UserError
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.progress import Board, line, view
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from tests.support.command import ROOT, command
from tests.support.plans import dense, find, imp, planned

# -- the limits --------------------------------------------------------------------------------------------------------


def test_a_budget_without_limits_is_never_spent() -> None:
    budget = Budget(started=time.monotonic() - 1e9)
    budget.check()
    assert budget.reached(10**9) is None


def test_hours_are_counted_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(hours=0.5, started=100.0)
    for seconds, spent in ((0.0, None), (1799.9, None), (1800.0, "--max-hours"), (9999.0, "--max-hours")):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: 100.0 + seconds)
        assert budget.reached(10**9) == spent


def test_epochs_are_those_of_this_command() -> None:
    budget = Budget(epochs=30)
    assert [budget.reached(epochs) for epochs in (0, 29, 30, 31)] == [None, None, "--max-epochs", "--max-epochs"]


def test_of_two_limits_the_one_that_is_reached_is_named() -> None:
    assert Budget(hours=1.0, epochs=5).reached(5) == "--max-epochs"
    assert Budget(hours=1.0, epochs=5, started=time.monotonic() - 3601).reached(0) == "--max-hours"


@pytest.mark.parametrize("limit", [{"hours": 0.0}, {"hours": -1.0}, {"hours": float("nan")}, {"epochs": 0}])
def test_a_limit_that_is_none_is_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"max-hours|max-epochs"):
        Budget(**limit).check()
    Budget(hours=1e-9, epochs=1).check()


# -- the searcher, without Ray -----------------------------------------------------------------------------------------


class Search:
    """A searcher with reports as a worker would make them."""

    def __init__(self, plan: Plan, slots: int, budget: Budget) -> None:
        self.plan, self.spent = plan, Spent()
        self.recorded: list[str] = []
        dispatcher = Dispatcher(plan, (), (), slots)
        self.searcher = PlanSearcher(dispatcher, self.spent, budget, lambda trial: {"name": trial.name}, self.record)

    def record(self, trial: PlannedTrial, mark: Mapping[str, Any]) -> bool:
        assert mark == {"device": "cpu"}
        self.recorded.append(trial.name)
        return True

    def start(self, trial_id: str) -> PlannedTrial:
        config = self.searcher.suggest(trial_id)
        assert isinstance(config, dict)
        return find_named(self.plan, config["name"])

    def report(self, trial_id: str, epochs: int, *stored: str) -> bool:
        """Whether the trial is stopped at this report; Tune tells of it in one way or the other."""
        result = {"epochs_done": epochs, "level": 0, "stored": list(stored), "fingerprint": '{"device": "cpu"}'}
        stop = self.searcher.should_stop(trial_id, result)
        if stop:
            self.searcher.on_trial_complete(trial_id, result)
        else:
            self.searcher.on_trial_result(trial_id, result)
        return stop

    def end(self, trial_id: str, epochs: int) -> None:
        result = {"epochs_done": epochs, "status": "done", "stored": [], "fingerprint": '{"device": "cpu"}'}
        assert not self.searcher.should_stop(trial_id, result), "it has ended"
        self.searcher.on_trial_complete(trial_id, result)


def find_named(plan: Plan, name: str) -> PlannedTrial:
    return next(trial for trial in plan.trials if trial.name == name)


def ladders() -> Plan:
    """The first trial that starts is the deepest ticket: six seeds take long enough for that."""
    return planned([*dense(6, epochs=20), *imp((1, 2), (0,), 6, epochs=20)])


def test_a_trial_is_stopped_only_where_what_it_has_trained_is_stored() -> None:
    search = Search(ladders(), 1, Budget(epochs=15))
    search.start("a")
    assert not search.report("a", 19), "a second has passed, and nothing is stored"
    assert search.searcher.stopped_by is None
    baseline = find(search.plan, seed=0, control="dense")
    assert search.report("a", 20, baseline.end.key)
    assert search.searcher.stopped_by == "--max-epochs"
    assert search.spent.epochs == 20 and not search.spent.failed
    assert search.searcher.suggest("b") == "FINISHED"


def test_what_a_stopped_trial_stored_last_is_recorded() -> None:
    search = Search(ladders(), 1, Budget(epochs=20))
    search.start("a")
    baseline = find(search.plan, seed=0, control="dense")
    assert search.report("a", 20, baseline.end.key)
    assert search.recorded == [baseline.name]


def test_a_trial_is_not_stopped_where_only_its_record_is_missing() -> None:
    search = Search(planned(dense(2, epochs=20)), 1, Budget(epochs=1))
    trial = search.start("a")
    assert not search.report("a", 20, trial.end.key)
    search.end("a", 20)
    assert list(search.spent.finished) == [trial.name]
    assert search.searcher.suggest("b") == "FINISHED" and search.searcher.stopped_by == "--max-epochs"


def test_the_epochs_of_the_report_itself_count() -> None:
    """Tune tells its callbacks of a report after it has asked whether to stop there."""
    search = Search(ladders(), 1, Budget(epochs=20))
    search.start("a")
    assert search.report("a", 20, "some state")


def test_the_budget_ends_a_sweep_whatever_the_live_view_shows() -> None:
    """Nothing is decided from the view: with none, or with one whose counts are wrong, all is the same."""
    stopped = []
    for show in (lambda *_: None, Board(planned=0, skipped=99, epochs_planned=-1).show):
        search = Search(ladders(), 1, Budget(epochs=20))
        search.searcher.show = show
        first = search.start("a")
        search.end("a", first.end.above + first.end.epochs)
        stopped.append((search.searcher.suggest("b"), search.searcher.stopped_by, search.spent))
    assert stopped[0] == stopped[1] and stopped[0][:2] == ("FINISHED", "--max-epochs")


def test_the_live_view_changes_nothing_that_it_counts() -> None:
    spent = Spent(running={"a": 3}, finished={"b": 20}, failed={"c"}, stopped=4)
    before, board = copy.deepcopy(spent), Board(planned=5, epochs_planned=100, spent=spent)
    board.show("b", {"test_accuracy": 0.9})
    Console(file=io.StringIO()).print(view(board))
    assert "27/100 epochs" in line(board) and spent == before


def test_a_spent_budget_begins_nothing_more() -> None:
    search = Search(ladders(), 2, Budget(epochs=20))
    first = search.start("a")
    search.end("a", first.end.above + first.end.epochs)
    assert search.searcher.suggest("b") == "FINISHED" and search.searcher.stopped_by == "--max-epochs"


def test_where_all_comes_to_its_end_nothing_was_stopped() -> None:
    search = Search(planned(dense(2, epochs=20)), 2, Budget(epochs=1))
    search.start("a")
    search.start("b")
    assert search.searcher.suggest("c") is None
    search.end("a", 20)
    assert search.searcher.suggest("c") is None
    search.end("b", 20)
    assert search.searcher.suggest("c") == "FINISHED"
    assert search.searcher.stopped_by is None


def test_the_last_trial_can_be_stopped_too() -> None:
    search = Search(planned(imp((2,), (5,), 1, epochs=20)), 2, Budget(epochs=1))
    trial = search.start("a")
    assert search.searcher.suggest("b") is None
    assert search.report("a", 5, trial.end.path()[0].key)
    assert search.searcher.suggest("b") == "FINISHED" and search.searcher.stopped_by == "--max-epochs"


def test_no_more_trials_than_slots() -> None:
    search = Search(planned(dense(3, epochs=20)), 2, Budget())
    search.start("a")
    search.start("b")
    assert search.searcher.suggest("c") is None
    search.end("b", 20)
    assert search.start("c").spec.seed == 2


def test_a_failed_trial_is_noted_and_its_epochs_count() -> None:
    search = Search(ladders(), 1, Budget())
    trial = search.start("a")
    search.spent.report(trial.name, 7)
    search.searcher.on_trial_complete("a", None, error=True)
    assert search.spent.failed == {trial.name} and search.spent.epochs == 7
    search.searcher.on_trial_complete("a", None, error=True)
    assert search.start("b") is not trial


# -- real sweeps -------------------------------------------------------------------------------------------------------

SMALL = ["--controls", "none", "--epochs", "6", "--sparsity", "64", "87.04", "--rewind-epoch", "0", "1", "--seeds", "2"]
OF_A_SEED = 6 + 4 * 6 + 4 * 5


def sweep(storage: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON of the last line, all output. One trial at a time: what is trained when is fixed."""
    done = subprocess.run(
        command("digits", *arguments, "--max-concurrent", "1", "--storage", str(storage), "--json"),
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "{}"
    return done.returncode, json.loads(last) if last.startswith("{") else {}, done.stdout + done.stderr


def finished(storage: Path) -> dict[str, Any]:
    """Records of the finished trials, by name."""
    records = (storage / "digits" / "trials").glob("*/record.json")
    return {path.parent.name: json.loads(path.read_text()) for path in records}


def is_paired(trials: dict[str, Any]) -> bool:
    return all(f"digits-lenet_300_100-dense-e6-seed{record['spec']['seed']}" in trials for record in trials.values())


@pytest.mark.slow
def test_a_sweep_stopped_twice_by_its_epochs_trains_nothing_twice(tmp_path: Path) -> None:
    code, first, said = sweep(tmp_path, *SMALL, "--max-epochs", "5")
    assert (code, first["stopped_by"], first["failed"]) == (3, "--max-epochs", 0), said
    assert "stopped by --max-epochs; what is trained is kept: run the same command again to continue" in said
    assert first["epochs_distinct"] == 2 * OF_A_SEED and first["planned"] == 10
    assert (first["epochs_trained"], first["done"]) == (6, 1), "a ticket was stopped where its baseline ends"
    kept = finished(tmp_path)
    assert list(kept) == ["digits-lenet_300_100-dense-e6-seed0"]

    code, second, said = sweep(tmp_path, *SMALL, "--max-epochs", "20")
    assert (code, second["stopped_by"], second["skipped"]) == (3, "--max-epochs", 1), said
    # two levels at rewind epoch 0; then two of four at rewind epoch 1, where the third command goes on
    assert (second["epochs_trained"], second["done"]) == (2 * 6 + 2 * 5, 3)
    assert is_paired(finished(tmp_path)) and kept.items() <= finished(tmp_path).items()
    kept = finished(tmp_path)
    report = subprocess.run(
        [sys.executable, "-m", "analysis", str(tmp_path / "digits")],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert report.returncode == 0 and "7 missing" in report.stdout, report.stdout + report.stderr

    code, third, said = sweep(tmp_path, *SMALL)
    assert (code, third["stopped_by"], third["skipped"], third["done"]) == (0, None, 3, 10), said
    assert first["epochs_trained"] + second["epochs_trained"] + third["epochs_trained"] == 2 * OF_A_SEED
    assert kept.items() <= finished(tmp_path).items()
    assert not list(tmp_path.glob("states/*/*-passing-*"))


@pytest.mark.slow
def test_a_sweep_whose_time_is_up_begins_nothing(tmp_path: Path) -> None:
    code, summary, said = sweep(tmp_path, *SMALL, "--max-hours", "1e-9")
    assert (code, summary["stopped_by"]) == (3, "--max-hours"), said
    assert (summary["done"], summary["epochs_trained"], summary["failed"]) == (0, 0, 0)
    assert "10 missing" in said


@pytest.mark.slow
def test_a_failed_trial_counts_for_more_than_a_spent_budget(tmp_path: Path) -> None:
    code, summary, said = sweep(
        tmp_path, "--epochs", "2", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "1", "--model",
        "tests.plugins:broken_model", "lenet_300_100", "--controls", "none", "--max-epochs", "1",
    )  # fmt: skip
    assert (code, summary["stopped_by"], summary["failed"]) == (1, "--max-epochs", 2), said
    assert 0 < summary["epochs_trained"] < summary["epochs_distinct"] and summary["done"] == 1
