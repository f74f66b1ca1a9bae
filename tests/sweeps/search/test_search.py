"""Searches: asked, trained, told, interrupted and gone on with. All but the last without Ray's processes."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

import analysis
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.record import Identity, record_trial
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.run import Keep, run_trial
from sweeps.cli.confirm import _unused, confirm
from sweeps.cli.options import RunOptions
from sweeps.cli.options import parse as parse_sweep
from sweeps.cli.search_options import parse
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import digits
from sweeps.lth_search import main
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import PlannedTrial, make_plan
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from sweeps.runs.ledger import Ledger
from sweeps.search.axes import Choice, Range
from sweeps.search.rows import rows_of
from sweeps.search.searches import Search, find_search
from sweeps.search.study import ON_WAY, Study
from sweeps.search.suggestions import Suggestions, objectives
from tests.support.searches import RUN, Searched, facts_of

TINY = Search(
    sweep=replace(digits(), name=RUN, seeds=(0, 1), base={"epochs": 2}, axes={}),
    axes={
        "target_sparsity_pct": Range(low=50.0, high=90.0), "schedule": Choice(values=("imp", "omp")),
        "prune_rate_pct": Choice(values=(40.0, 60.0)), "rewind_epoch": Choice(values=(0, 1)),
    },
    suggestions=4,
).check()  # fmt: skip


class Lab(Searched):
    """A search whose trials are trained in this process, one after the other. broken: names of trials that fail."""

    def __init__(self, folder: Path, search: Search, broken: tuple[str, ...] = ()) -> None:
        self.store, self.search, self.broken = Store(folder), search, broken
        self.ledger = Ledger(store=self.store, run=RUN, plan=make_plan((), {}), facts={})
        self.study = Study(search, self.store, RUN)
        self.source = Suggestions(self.study, search, self.ledger, facts_of, ["test"])
        self.dispatcher = Dispatcher(self.ledger.plan, (), (), 1, self.source.rank_of)
        self.searcher = PlanSearcher(
            self.dispatcher, Spent(), Budget(), lambda trial: {"trial": trial}, self.record, self.source
        )
        self.trained: list[str] = []

    def record(self, trial: PlannedTrial, mark: Mapping[str, Any]) -> bool:
        identity = Identity(spec=trial.spec, key=trial.key, chain=trial.chain, fingerprint=mark)
        return record_trial(self.store, RUN, identity) is not None

    def work(self, most: int = 1000) -> bool:
        """Train trials until the search is over, or as many as this; whether it is over."""
        for number in range(most):
            config: Any = self.searcher.suggest(f"t{number}")
            if config == PlanSearcher.FINISHED:
                self.study.close()
                return True
            if config is not None:  # else all that was planned was trained already; Tune asks again
                self.train(f"t{number}", config["trial"])
        return False  # as after a kill: nothing is closed

    def train(self, trial_id: str, trial: PlannedTrial) -> None:
        assert config_is_new(trial, self.trained)
        self.trained.append(trial.name)
        if trial.name in self.broken:
            self.searcher.on_trial_complete(trial_id, None, error=True)
            return
        stored: list[str] = []
        plan = self.dispatcher.plan
        keep = Keep(states=plan.keep(trial), mid_epoch_points=plan.rewind_steps(trial))
        record = run_trial(trial.spec, self.store, RUN, keep=keep, on_state=stored.append)
        mark = json.dumps(fingerprint(Execution()))
        result = {"status": record["status"], "epochs_done": record["epochs_trained"]}
        self.searcher.on_trial_complete(trial_id, {**result, "stored": stored, "fingerprint": mark})


def config_is_new(trial: PlannedTrial, trained: list[str]) -> bool:
    return trial.name not in trained


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("done"), TINY)
    assert lab.work()
    return lab


def test_a_search_trains_every_suggestion_on_all_seeds_and_tells_its_objectives(done: Lab) -> None:
    trials = done.study.trials(TrialState.COMPLETE)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert sum(ON_WAY not in trial.user_attrs for trial in trials) == TINY.suggestions
    for trial in trials:
        records = [done.records[name] for name in trial.user_attrs["trials"]]
        tickets = [record for record in records if record["spec"]["control"] == "none"]
        assert {record["spec"]["seed"] for record in tickets} == {0, 1}
        assert {r["spec"]["seed"] for r in records if r["spec"]["control"] == "dense"} == {0, 1}
        assert trial.values == [
            fmean(record["result"]["valid_accuracy"] for record in tickets),
            fmean(record["result"]["sparsity_pct"] for record in tickets),
        ]
        assert set(trial.params) == {"target_sparsity_pct", "schedule", "rewind_epoch"} | (
            {"prune_rate_pct"} if trial.params["schedule"] == "imp" else set()
        )


def test_the_command_that_confirms_trains_what_was_found_where_the_search_did() -> None:
    given = "--storage /a/b --data-root /data --gpus-per-trial 0.25 --deterministic --sparsity 50..90 --lr 1e-3..1e-2"
    options, search = parse(["pets_tutorial", *given.split(), "--seeds", "2"])
    found = asdict(TrialSpec(**{**search.sweep.base, "target_sparsity_pct": 90.0, "lr": 0.002}))
    words = shlex.split(confirm([found], search, options)[0])[3:]
    again, sweep = parse_sweep(words)
    assert (again.storage, again.data_root, again.gpus_per_trial) == ("/a/b", Path("/data"), 0.25)
    assert again.deterministic and sweep.seeds == (2, 3, 4, 5, 6, 7, 8, 9)
    tickets = [spec for spec in expand(sweep).trials if spec.control == "none"]
    assert tickets == [
        TrialSpec(**{**search.sweep.base, "target_sparsity_pct": 90.0, "lr": 0.002, "seed": s}) for s in sweep.seeds
    ]
    assert "--storage" not in confirm([found], search, RunOptions())[0]


def test_less_sparse_levels_of_a_chain_are_suggestions_that_train_nothing(done: Lab) -> None:
    trials = {trial.number: trial for trial in done.study.trials()}
    on_way = [trial for trial in trials.values() if ON_WAY in trial.user_attrs]
    deep = [t for t in trials.values() if t.params.get("prune_rate_pct") == 40 and t.params["target_sparsity_pct"] > 64]
    assert on_way
    assert {trial.user_attrs[ON_WAY] for trial in on_way} >= {t.number for t in deep if ON_WAY not in t.user_attrs}
    for trial in on_way:
        whole = trials[trial.user_attrs[ON_WAY]].params
        assert {**trial.params, "target_sparsity_pct": 0} == {**whole, "target_sparsity_pct": 0}
        assert trial.params["target_sparsity_pct"] < whole["target_sparsity_pct"]
        tickets = [name for name in trial.user_attrs["trials"] if "dense" not in name]
        assert [done.records[name]["epochs_trained"] for name in tickets] == [0, 0]


def test_the_front_is_of_suggestions_that_no_other_betters(done: Lab) -> None:
    values = {trial.number: trial.values for trial in done.study.trials(TrialState.COMPLETE)}
    bettered = {
        a for a, b in itertools.permutations(values, 2)
        if all(y >= x for x, y in zip(values[a], values[b], strict=True)) and values[a] != values[b]
    }  # fmt: skip
    assert done.study.front == set(values) - bettered


def test_stored_training_is_gone_on_from(done: Lab) -> None:
    """The dense network of a seed is trained once, whatever is suggested."""
    dense = [r for r in done.records.values() if r["spec"]["control"] == "dense"]
    trained = sum(record["epochs_trained"] for record in done.records.values())
    alone = sum(TrialSpec(**record["spec"]).epochs_alone() for record in done.records.values())
    assert len(dense) == 2
    assert trained < alone
    distinct = {
        (row["trained_by"], row["level"], row["epoch"]) for record in done.records.values() for row in record["epochs"]
    }  # fmt: skip
    assert trained == len(distinct) + 2  # epoch 0 of both seeds again, when a later suggestion rewound to its end


@pytest.mark.parametrize("after", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_search_that_is_killed_goes_on_to_the_same_study(done: Lab, tmp_path: Path, after: int) -> None:
    first = Lab(tmp_path, TINY)
    assert not first.work(most=after)
    if after:
        assert isinstance(first.searcher.suggest("killed"), dict)  # handed out, and never heard of again
    second = Lab(tmp_path, TINY)
    assert second.work()
    assert second.told == done.told
    assert not set(first.trained) & set(second.trained)
    assert {n: r["sha256"] for n, r in second.records.items()} == {n: r["sha256"] for n, r in done.records.items()}


def test_more_suggestions_go_on_with_a_study(done: Lab, tmp_path: Path) -> None:
    assert Lab(tmp_path, replace(TINY, suggestions=2)).work()
    more = Lab(tmp_path, TINY)
    assert more.work()
    assert more.told == done.told
    again = Lab(tmp_path, TINY)
    assert again.source.is_over(again.dispatcher)
    assert again.work()
    assert again.trained == []


def test_a_trial_that_fails_fails_its_suggestion_and_no_other(done: Lab, tmp_path: Path) -> None:
    name = next(n for n in done.study.trials()[0].user_attrs["trials"] if "dense" not in n)
    lab = Lab(tmp_path, TINY, broken=(name,))
    assert lab.work()
    assert lab.told[0][1] == "FAIL"
    assert name in lab.study.trials()[0].user_attrs["reason"]
    assert lab.study.n_told == TINY.suggestions, "one that failed is over too, or a search of failures would not end"
    whole = Lab(tmp_path, TINY)
    assert whole.study.ask_again() == 1
    assert whole.study.ask_again() == 0
    whole.source.retry = True
    assert whole.work()
    assert ("COMPLETE", lab.told[0][2]) in [trial[1:3] for trial in whole.told]


def test_a_search_in_which_every_trial_fails_comes_to_an_end(done: Lab, tmp_path: Path) -> None:
    names = {name for trial in done.study.trials() for name in trial.user_attrs["trials"]}
    lab = Lab(tmp_path, TINY, broken=tuple(names))
    lab.source.search = replace(TINY, axes={"schedule": Choice(values=("omp",))})
    assert lab.work(most=100)
    assert lab.study.n_told == TINY.suggestions


def test_a_suggestion_that_the_budget_ends_is_gone_on_with(done: Lab, tmp_path: Path) -> None:
    first = Lab(tmp_path, TINY)
    config: Any = first.searcher.suggest("t")
    first.searcher.stopped_by = "--max-epochs"
    first.searcher.on_trial_complete("t", {"epochs_done": 1, "stored": [], "fingerprint": "{}"})  # ended by a limit
    assert config["trial"].name in first.dispatcher.stopped
    assert first.searcher.suggest("u") == PlanSearcher.FINISHED
    assert [trial.state for trial in first.study.trials()] == [TrialState.RUNNING]
    second = Lab(tmp_path, TINY)
    assert second.work()
    assert second.told == done.told


def test_a_point_that_is_no_trial_is_failed_and_another_is_asked_for(tmp_path: Path) -> None:
    axes = {"epochs": Range(low=1, high=3), "rewind_epoch": Range(low=0, high=2)}
    search = replace(TINY, axes=axes, suggestions=3, sweep=replace(TINY.sweep, seeds=(0,))).check()
    lab = Lab(tmp_path, search)
    assert lab.work()
    assert len(lab.study.trials(TrialState.COMPLETE)) == 3
    failed = lab.study.trials(TrialState.FAIL)
    assert failed
    assert all(trial.params["rewind_epoch"] >= trial.params["epochs"] for trial in failed)
    assert all("rewind_epoch" in trial.user_attrs["reason"] for trial in failed)


def test_successive_halving_stops_at_ends_of_levels(tmp_path: Path) -> None:
    search = replace(
        TINY, floor=80.0, objectives=("accuracy",), reduction=3, suggestions=7, sweep=replace(TINY.sweep, seeds=(0,)),
        axes={**TINY.axes, "schedule": Choice(values=("imp",)), "lr": Range(low=1e-5, high=1e-2, log=True)},
    ).check()  # fmt: skip
    lab = Lab(tmp_path, search)
    assert lab.work()
    stopped, whole = lab.study.trials(TrialState.PRUNED), lab.study.trials(TrialState.COMPLETE)
    assert lab.study.n_told == 7
    assert stopped
    assert whole
    assert all(trial.user_attrs["sparsity"] >= 80 for trial in whole)
    deepest = {trial.number: trial.user_attrs["trials"] for trial in (*stopped, *whole)}
    for trial in stopped:  # it was not among the best third of those that had come as far
        stage = max(trial.intermediate_values)
        before = [
            t.intermediate_values[stage]
            for t in (*stopped, *whole)
            if stage in t.intermediate_values and t.number < trial.number
        ]
        assert trial.intermediate_values[stage] <= max(before)
        ticket = lab.records[next(n for n in deepest[trial.number] if "dense" not in n)]
        assert (
            ticket["result"]["sparsity_pct"] < 100
            and ticket["result"]["valid_accuracy"] == trial.intermediate_values[stage]
        )
    assert lab.study.front == {max(whole, key=lambda trial: trial.value).number}


def diverging(**changes: Any) -> Search:
    """A search in which some suggestions have a learning rate at which every ticket diverges."""
    axes = {"target_sparsity_pct": Choice(values=(64.0, 78.4)), "lr": Choice(values=(1e-3, 1e30))}
    return replace(TINY, **{"suggestions": 4, "sampler": "grid", "axes": axes, **changes}).check()


def rows_after(lab: Lab) -> list[dict[str, Any]]:
    trials = {row["trial"]: row for row in analysis.gather(f"{lab.store.uri}/{RUN}").rows("trials")}
    return rows_of(lab.study, lab.search, trials)


def test_suggestions_that_diverge_are_told_as_diverged_and_hide_nobody_on_the_front(tmp_path: Path) -> None:
    lab = Lab(tmp_path, diverging())
    assert lab.work() and lab.study.n_told == 4
    rows = rows_after(lab)
    assert sorted((row["status"], row["lr"]) for row in rows) == [("diverged", 1e30)] * 2 + [("done", 1e-3)] * 2
    for row in rows:
        if row["status"] == "diverged":
            assert not row["on_front"] and row["valid_accuracy"] is None and "2 trials of 4 diverged" in row["reason"]
    sparsest = max((row for row in rows if row["status"] == "done"), key=lambda row: row["sparsity_pct"])
    assert sparsest["on_front"], "a diverged one that is as sparse does not stand before it"


@pytest.mark.parametrize("score", ["mean", "paired"])
def test_a_search_in_which_everything_diverges_ends_with_an_empty_front(tmp_path: Path, score: str) -> None:
    axes = {"target_sparsity_pct": Range(low=50.0, high=90.0), "lr": Choice(values=(1e30, 1e31))}
    lab = Lab(tmp_path, diverging(axes=axes, sampler="tpe", score=score))
    assert lab.work()
    rows = rows_after(lab)
    assert {row["status"] for row in rows} == {"diverged"} and not any(row["on_front"] for row in rows)


def test_successive_halving_goes_on_with_no_suggestion_that_diverged(tmp_path: Path) -> None:
    axes = {**TINY.axes, "schedule": Choice(values=("imp",)), "lr": Choice(values=(1e30, 1e31))}
    search = diverging(
        axes=axes, sampler="tpe", floor=80.0, objectives=("accuracy",), reduction=3,
        sweep=replace(TINY.sweep, seeds=(0,)),
    )  # fmt: skip
    lab = Lab(tmp_path, search)
    assert lab.work()
    assert len(lab.study.trials(TrialState.PRUNED)) == 4 and {row["status"] for row in rows_after(lab)} == {"diverged"}


def test_the_seeds_that_confirm_are_unused_ones_that_a_table_can_hold() -> None:
    assert _unused((0, 1, 7)) == list(range(8, 16))
    assert _unused((2**63 - 1, 1)) == [0, 2, 3, 4, 5, 6, 7, 8]


def test_paired_objectives_are_differences_from_each_seeds_dense_trial() -> None:
    def record(accuracy: float | None) -> dict[str, Any]:
        return {"result": {"valid_accuracy": accuracy, "sparsity_pct": 80.0}, "data": {"n_classes": 10}}

    tickets = [TrialSpec(target_sparsity_pct=78.4, seed=seed) for seed in (0, 1)]
    dense = [TrialSpec(control="dense", seed=seed) for seed in (0, 1)]
    short = TrialSpec(control="dense", seed=0, epochs=5)
    records = dict(zip([*tickets, *dense, short], map(record, (0.9, None, 0.95, 0.5, 0.1)), strict=True))
    mean = objectives(TINY, records)
    assert mean == {"accuracy": pytest.approx((0.9 + 0.1) / 2), "sparsity": 80.0, "epochs": 80}
    paired = objectives(replace(TINY, score="paired"), records)
    assert paired["accuracy"] == pytest.approx(((90 - 95) + (10 - 50)) / 2)


def test_a_study_of_other_terms_or_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    Lab(tmp_path, TINY).study.close()
    with pytest.raises(UserError, match="seeds"):
        Lab(tmp_path, replace(TINY, sweep=replace(TINY.sweep, seeds=(0,))))
    with pytest.raises(UserError, match="axes"):
        Lab(tmp_path, replace(TINY, axes={"lr": Range(low=1e-4, high=1e-3)}))
    with pytest.raises(UserError, match="study"):
        Lab(tmp_path, replace(TINY, objectives=("accuracy",), floor=60.0).check())
    (tmp_path / RUN / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="cannot be read as a study"):
        Lab(tmp_path, TINY)


def test_the_command_line_makes_a_search() -> None:
    options, search = parse(["--floor", "90", "--asha", "--lr", "1e-4..1e-2:log", "--schedule", "imp", "--seeds", "2"])
    assert options.search == "digits_search"
    assert search.axes["target_sparsity_pct"] == Range(low=90.0, high=97.0)
    assert search.axes["lr"] == Range(low=1e-4, high=1e-2, log=True)
    assert search.sweep.base["schedule"] == "imp"
    assert "schedule" not in search.axes
    assert (search.objectives, search.reduction, search.sweep.seeds) == (("accuracy",), 3, (0, 1))
    assert parse(["--cost"])[1].objectives == ("accuracy", "sparsity", "epochs")
    assert parse(["pets_tutorial", "--sparsity", "50..90"])[1].sweep.base["dataset"] == "pets"
    assert find_search("digits_search").check().suggestions == 24


def test_a_search_leaves_out_the_controls_that_its_recipe_has_where_possible() -> None:
    search = Search(sweep=replace(digits(), axes={}), axes={"target_sparsity_pct": Range(low=50.0, high=97.0)})
    assert search.sweep.controls and search.check().sweep.controls == ()
    named = replace(search, sweep=replace(search.sweep, if_possible=()))
    with pytest.raises(UserError, match="found 'reinit'; expected no controls"):
        named.check()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--floor", "99"], "floor"), (["--floor", "0.9"], "did you mean 90"), (["--asha"], "one objective"),
        (["nonsense"], "expected one of"), (["digits"], "no axis"), (["--suggestions", "0"], "suggestions"),
        (["--lr"], "at least one value"), (["--seed", "1", "1"], "each seed once"),
        (["tests.plugins:no_search"], "cannot be made"), (["--max-epochs", "0"], "max-epochs"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_line_and_code_2(
    arguments: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--storage", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ")
    assert match in error


@pytest.mark.slow
def test_a_search_through_ray_survives_kill_9_and_ends_with_its_front(tmp_path: Path) -> None:
    words = ["--storage", str(tmp_path), "--suggestions", "6", "--seeds", "2", "--epochs", "5", "--json"]
    command = [sys.executable, "-m", "sweeps.lth_search", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = tmp_path / "digits_search" / "trials"
    while not list(records.glob("*/manifest.json")):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {path: path.read_bytes() for path in records.glob("*/manifest.json")}
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(second.stdout.splitlines()[-1])
    assert summary["by_status"] == {"done": 6, "stopped": 0, "diverged": 0, "failed": 0, "open": 0}
    assert all(path.read_bytes() == content for path, content in before.items())
    table = pq.read_table(tmp_path / "digits_search" / "analysis" / "suggestions.parquet").to_pylist()
    assert [row["suggestion"] for row in table] == list(range(len(table)))
    assert sum(row["on_the_way_of"] is None for row in table) == 6 < len(table)
    assert [row["suggestion"] for row in table if row["on_front"]] == [row["suggestion"] for row in summary["front"]]
    assert all(row["n_seeds"] == 2 for row in table)
    assert (tmp_path / "digits_search" / "analysis" / "pareto.svg").read_bytes().startswith(b"<?xml")
