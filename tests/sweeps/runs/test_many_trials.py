"""File operations for each trial of a finished run, counted: seconds would depend on the machine."""

from __future__ import annotations

import builtins
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis.tables.index import Known, signature_of, write_index
from analysis.tables.records import list_trials
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import HISTORY, MASKS, RECORD, TRAINING, WEIGHTS, Store, to_json
from sweeps.planning.plan import Facts, Plan
from sweeps.runs.ledger import Ledger
from sweeps.runs.survey import read_survey
from tests.support.records import record
from tests.support.runs import write_plan

HISTORY_FILE = {
    "rows": [], "data": {"digest": "d", "shape": [1], "n_classes": 2, "n_train": 1}, "diverged": None, "asked": {},
    "selections": {}, "counts": [], "versions": {}, "weights": {}, "early_stop": None, "evaluation": None,
}  # fmt: skip
SEEDS = (15, 30, 60)  # each with a ticket and its dense network
FINGERPRINT = {"device": "any"}
LONG_AGO_NS = 10**18


def finished(storage: Path, seeds: int) -> tuple[Store, Plan]:
    """A run whose folders are complete and sound, though nothing was trained for them."""
    store = Store(storage)
    tickets = [TrialSpec(target_sparsity_pct=20, epochs=1, seed=seed) for seed in range(seeds)]
    dense = [TrialSpec(control="dense", epochs=1, seed=seed) for seed in range(seeds)]
    plan = write_plan(store, "a", [*tickets, *dense])
    for trial in plan.trials:
        state = store.state(trial.end.key, FINGERPRINT)
        files = {WEIGHTS: b"w", TRAINING: b"t", HISTORY: to_json(HISTORY_FILE)}
        about = {"kind": "state", "key": trial.end.key, "complete": True, "fingerprint": FINGERPRINT}
        store.seal_shared(state, files, about)
        store.seal(
            store.trial("a", trial.name), {RECORD: to_json(record(trial.spec, 0.9)), MASKS: b"m"},
            {"kind": "trial", "trial": trial.name, "key": trial.key, "status": "done", "states": {"final": state},
             "fingerprint": FINGERPRINT},
        )  # fmt: skip
    return store, plan


def ledger_of(store: Store, plan: Plan) -> Ledger:
    return Ledger(store=store, run="a", plan=plan, facts={("digits", 0): Facts(digest="d", n_train=1)})


@contextmanager
def counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts every look at a file or folder of the storage, and how often each file is opened."""
    found: Counter[str] = Counter()

    def counting(name: str, plain: Any) -> Any:
        def call(path: Any = ".", *args: Any, **more: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).startswith(store.root):
                found["all"] += 1
                found[f"{name} {os.fspath(path)}"] += 1
            answer = plain(path, *args, **more)
            if name == "scandir" and os.fspath(path).startswith(store.root):
                listed = len(os.listdir(path))  # each entry is looked at too
                found["all"] += listed
            return answer

        return call

    def of_store(plain: Any) -> Any:
        def call(self: Store, *args: Any) -> Any:
            found["all"] += 1
            return plain(self, *args)

        return call

    with monkeypatch.context() as patch:
        for name in ("stat", "lstat", "scandir"):
            patch.setattr(os, name, counting(name, getattr(os, name)))
        patch.setattr(builtins, "open", counting("open", open))
        for name in ("_list", "exists", "present"):
            patch.setattr(Store, name, of_store(getattr(Store, name)))
        yield found


def check_growth(found: list[Counter[str]], most: int) -> None:
    """Operations grow with the trials, not faster, by at most so many for each; no file is opened twice."""
    fewer, some, more = (one["all"] for one in found)
    trials = [2 * seeds for seeds in SEEDS]
    slope = (some - fewer) / (trials[1] - trials[0])
    assert slope <= most, f"{slope} operations a trial"
    assert more - some == 2 * (some - fewer), "not linear"
    often = {name: n for name, n in found[-1].items() if name.startswith("open ") and "/trials/" in name and n > 1}
    assert not often


def test_a_rerun_reads_each_file_of_a_finished_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial has 3 files and its state 4. All are read, and each is looked at before."""
    found = []
    for seeds in SEEDS:
        store, plan = finished(tmp_path / f"{seeds}", seeds)
        with counted(store, monkeypatch) as one:
            stock = ledger_of(store, plan).take_stock(repair=True)
        assert len(stock.done) == 2 * seeds and not stock.reports
        assert sum(name.startswith("open ") for name in one) >= 7 * 2 * seeds, "a rerun does not read all files"
        found.append(one)
    check_growth(found, most=30)


def test_status_reads_at_most_the_manifest_of_each_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, with_index = [], []
    for seeds in SEEDS:
        store, plan = finished(tmp_path / f"{seeds}", seeds)
        with counted(store, monkeypatch) as one:
            survey = read_survey(f"{store.root}/a")
        assert {trial.status for trial in survey.statuses.values()} == {"done"}
        assert (survey.total, survey.left) == (plan.epochs_distinct, 0)
        found.append(one)
        gathered(store, plan)
        with counted(store, monkeypatch) as one:
            again = read_survey(f"{store.root}/a")
        assert again.statuses == survey.statuses and (again.total, again.left) == (survey.total, 0)
        assert not [name for name in one if name.startswith("open ") and "/trials/" in name]
        with_index.append(one)
    check_growth(found, most=8)
    check_growth(with_index, most=5)


def gathered(store: Store, plan: Plan) -> None:
    """Leave the index that a gather leaves."""
    for path in Path(store.root, "a", "trials").glob("*/*"):
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    keys = {trial.name: trial.key for trial in plan.trials}
    marks = {name: str(signature_of(files, 2 * LONG_AGO_NS)) for name, files in list_trials(store, "a").items()}
    known = {name: Known(mark=mark, key=keys[name], status="done", reason=None) for name, mark in marks.items()}
    write_index(store, "a", {}, known, None)


def test_with_an_index_status_still_sees_what_has_changed_since(tmp_path: Path) -> None:
    store, plan = finished(tmp_path, 2)
    gathered(store, plan)
    names = [trial.name for trial in plan.trials]
    Path(store.root, "a", "trials", names[0], RECORD).write_bytes(b"shorter")
    Path(store.root, "a", "trials", names[1], MASKS).unlink()
    statuses = read_survey(f"{store.root}/a").statuses
    assert [statuses[name].status for name in names] == ["damaged", "damaged", "done", "done"]


def test_seeds_that_are_finished_count_as_if_each_were_planned(store: Store) -> None:
    """Of finished seeds with the same trials only one is planned."""
    of_seed = {
        seed: [TrialSpec(control="dense", epochs=2 + seed // 2, seed=seed), TrialSpec(epochs=2 + seed // 2, seed=seed)]
        for seed in range(6)
    }
    plan = write_plan(store, "a", [spec for specs in of_seed.values() for spec in specs])
    for trial in plan.trials:
        if trial.spec.seed not in (1, 5) or trial.spec.is_dense:
            about = {"trial": trial.name, "key": trial.key, "status": "done", "states": {}, "fingerprint": FINGERPRINT}
            store.seal(store.trial("a", trial.name), {RECORD: b"{}"}, about)
    survey = read_survey(f"{store.root}/a")
    assert survey.total == plan.epochs_distinct
    assert survey.left == plan.for_seeds([1, 5]).epochs_distinct
    assert sum(one.status == "not started" for one in survey.statuses.values()) == 2
