"""A trial that is killed goes on from its last stored state with the same bytes; a damaged state is set aside."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lth_trainable.training.run as run_module
from lth_trainable.spec.segments import rewind_key
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.record import Identity
from lth_trainable.store.states import TEMPORARY
from lth_trainable.store.store import HISTORY, MANIFEST, RECORD, STATES, TRAINING, Sealed, Store, to_json
from lth_trainable.store.trials import finished_trials, load_trial
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import Keep, run_trial
from tests.support.command import ROOT
from tests.support.kills import (
    CNN,
    SPECS,
    TICKET,
    chain_of,
    folders,
    history_of,
    kill,
    mark_of,
    temporary,
    uninterrupted,
)

pytestmark = pytest.mark.usefixtures("every_epoch_is_stored")


# -- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_a_killed_trial_goes_on_with_the_same_bytes(name: str, store: Store) -> None:
    spec = TrialSpec(**SPECS[name])
    whole = uninterrupted(name, store.root)
    rng, left, trained = random.Random(name), whole["epochs_trained"], 0
    while left > 1:
        n = rng.randint(1, min(3, left - 1))
        kill(spec, store, n)
        left, trained = left - n, trained + n
    record = run_trial(spec, store, "r")
    assert record["sha256"] == whole["sha256"]
    assert record["epochs_trained"] == whole["epochs_trained"] - trained, "only what was not stored is trained"
    assert temporary(store) == []
    held = {path.parent.name for path in Path(store.root, STATES).glob("*/*")}
    needed = {chain_of(spec)[0].key, *record["states"].values(), *filter(None, [rewind_key(spec, chain_of(spec))])}
    assert held == {path.name for path in Path(store.root, STATES).iterdir()} == needed


@pytest.mark.parametrize("epoch", range(1, 8))
def test_dsd_goes_on_in_every_phase(epoch: int, store: Store) -> None:
    """It remembers the scores of removed weights, by which they return while the sparsity falls."""
    spec = TrialSpec(**SPECS["dsd"])
    rising = [p.sparsity for p in spec.prunes]
    assert max(rising) > rising[-1], "sparsity falls again"
    kill(spec, store, epoch)
    record = run_trial(spec, store, "r")
    assert record["sha256"] == uninterrupted("dsd", store.root)["sha256"]
    assert record["epochs_trained"] == 8 - epoch


def test_a_process_that_is_killed(store: Store) -> None:
    spec, whole = TrialSpec(**TICKET), uninterrupted("imp", store.root)
    code = (
        "import json, os, signal, sys; import lth_trainable.training.lifecycle as life\n"
        "import lth_trainable.training.run as run\n"
        "from lth_trainable import Store, TrialSpec; seen = []\n"
        "life.RESUME_SECONDS = 0.0\n"
        "def on_epoch(rows):\n"
        "    seen.append(rows[-1])\n"
        "    if len(seen) == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.run_trial(TrialSpec(**json.loads(sys.argv[1])), Store(sys.argv[2]), 'r', on_epoch=on_epoch)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(TICKET), store.root], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL and len(temporary(store)) == 1
    record = run_trial(spec, store, "r")
    assert record["sha256"] == whole["sha256"] and record["epochs_trained"] == 7 - 4 and temporary(store) == []


def test_a_killed_trials_state_serves_another_trial_that_comes_by(store: Store) -> None:
    dense, ticket = (TrialSpec(**{**SPECS["iterative"], **f}) for f in ({"control": "dense"}, {"retrain": "none"}))
    kill(dense, store, 2)
    record = run_trial(ticket, store, "r")
    assert record["sha256"] == run_trial(ticket, Store(f"{store.root}-alone"))["sha256"]
    assert record["epochs_trained"] == 6 and {row["trained_by"] for row in record["epochs"][:2]} == {dense.name}
    assert temporary(store) == []


@pytest.mark.parametrize("measured", [False, True])
def test_a_passing_state_that_is_to_be_kept_is_kept(store: Store, measured: bool) -> None:
    """Of a trial that was killed before anybody needed the state: another one ends there, or a ticket returns to it."""
    ticket = TrialSpec(**{**SPECS["iterative"], "retrain": "none"})
    short = TrialSpec(**{**SPECS["dense"], "epochs": 2})
    kill(TrialSpec(**SPECS["dense"]), store, 2)
    key, told = chain_of(short)[-1].key, []
    took_over = run_trial(ticket, store, "r", keep=Keep(states={key: measured}), on_state=told.append)
    assert took_over["epochs_trained"] == 6
    assert bool(history_of(store, key)["evaluation"]) == measured
    assert key in told and [folder.name for folder in folders(store, key)] == [mark_of()]
    record = run_trial(short, store, "r")
    assert record["epochs_trained"] == 0 and temporary(store) == []
    assert record["sha256"] == run_trial(short, Store(f"{store.root}-alone"))["sha256"]


def test_a_passing_state_that_is_a_rewind_point_is_kept(store: Store) -> None:
    spec = TrialSpec(**TICKET)
    kill(TrialSpec(**{**TICKET, "control": "dense"}), store, 1)
    key = rewind_key(spec, chain_of(spec))
    assert key is not None and [folder.name[:12] for folder in folders(store, key)] == [mark_of()] == [
        folder.name.partition(TEMPORARY)[0] for folder in temporary(store)
    ]
    record = run_trial(spec, store, "r")
    assert record["sha256"] == uninterrupted("imp", store.root)["sha256"] and record["epochs_trained"] == 6
    assert [folder.name for folder in folders(store, key)] == [mark_of()]


def test_what_a_trial_stores_for_itself_never_takes_away_what_another_keeps(store: Store) -> None:
    """Two sweeps in one storage: the one keeps the state that the other only passes by, while that is under way."""
    short, long = TrialSpec(**{**SPECS["dense"], "epochs": 2}), TrialSpec(**SPECS["dense"])
    seen: list[dict[str, Any]] = []

    def on_epoch(rows: list[dict[str, Any]]) -> None:
        seen.append(rows[-1])
        if rows[-1]["epoch"] == 2:  # the state of two epochs is stored, for this trial alone
            assert len(temporary(store)) == 1
            run_trial(short, store, "other")

    run_trial(long, store, "r", on_epoch=on_epoch)
    assert len(seen) == 5 and temporary(store) == []
    assert run_trial(short, store, "other")["epochs_trained"] == 0


def test_a_temporary_state_that_is_deleted_while_another_trial_reads_it_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trial stores a deeper one and deletes this one, in the moment between the manifest and the weights."""
    spec, content, deleted = TrialSpec(**SPECS["dense"]), Store.content, []
    kill(spec, store, 2)

    def too_late(self: Store, folder: Sealed, name: str) -> bytes:
        if TEMPORARY in folder.path and not deleted:
            deleted.append(folder.path)
            self.delete_folder(folder.path)
        return content(self, folder, name)

    monkeypatch.setattr(Store, "content", too_late)
    record = run_trial(spec, store, "r")
    assert deleted and record["epochs_trained"] == 5
    assert not Path(store.root, STATES, "quarantine").exists()


# -- other machines, nothing to go on from, divergence, two at once ---------------------------------------------------


def test_states_of_another_fingerprint_are_not_used(store: Store) -> None:
    spec, two = TrialSpec(**TICKET), Execution(threads=2)
    run_trial(spec, store, "one")
    other = run_trial(spec, store, "two", two)
    assert other["epochs_trained"] == 7 and other["fingerprint"]["threads"] == 2
    for key in other["states"].values():
        assert sorted(f.name for f in folders(store, key)) == sorted([mark_of(), mark_of(threads=2)])
    kill(TrialSpec(**{**TICKET, "seed": 1}), store, 2, execution=two)
    assert run_trial(TrialSpec(**{**TICKET, "seed": 1}), store, "one")["epochs_trained"] == 7


def test_without_anything_to_go_on_from_only_weights_are_stored(store: Store) -> None:
    spec = TrialSpec(**TICKET)
    kill(spec, store, 6, keep=Keep(states={}, resumable=False))
    assert temporary(store) == []
    record = run_trial(spec, store, "r", keep=Keep(states={}, resumable=False))
    assert record["sha256"] == uninterrupted("imp", store.root)["sha256"] and record["epochs_trained"] == 7
    manifests = [json.loads(p.read_text()) for p in Path(store.root, STATES).glob("*/*/" + MANIFEST)]
    assert {m["key"] for m in manifests} == set(record["states"].values())
    assert not any(m["complete"] or TRAINING in m["files"] for m in manifests)
    for which in record["states"]:
        load_trial(f"{store.root}/r/trials/{spec.name}", which)
    longer = run_trial(TrialSpec(**{**TICKET, "target_sparsity_pct": 78.4}), store, "r")
    assert longer["epochs_trained"] == 9, "nothing is continued"


@pytest.mark.parametrize(
    "fields",
    [{"control": "dense"}, {"rewind_epoch": 1}, {"rewind_epoch": "7it"}, {"schedule": "omp", "retrain": "lr_rewinding"},
     {"schedule": "one_shot", "rewind_epoch": 1, "reset_end": True}, {"schedule": "agp"}],
)  # fmt: skip
def test_a_trial_that_diverges_is_recorded_and_not_gone_on_from(fields: dict[str, Any], store: Store) -> None:
    spec = TrialSpec(**{**CNN, "epochs": 4, "optimizer": "sgd", "lr": 1e30, **fields})
    first = run_trial(spec, store, "r")
    assert first["status"] == "diverged" and "not finite at level 0, epoch 0" in first["reason"]
    assert "rewind" not in first["states"] or first["states"]["rewind"] == first["states"]["initial"]
    again = run_trial(spec, store, "r")
    assert again["sha256"] == first["sha256"] and again["reason"] == first["reason"]
    [(folder, record)] = finished_trials(store, "r")
    assert record["status"] == folder.manifest["status"] == "diverged" and record["result"]["test_accuracy"] is None
    ticket = run_trial(TrialSpec(**{**CNN, "epochs": 4, "optimizer": "sgd", "lr": 1e30}), store, "r")
    assert ticket["status"] == "diverged", "another trial on the same trunk does not take it for a trained network"


def test_a_trial_that_diverges_at_a_later_level_says_where(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from lth_trainable.training.learner import EpochLog

    train = EpochLog.after_train

    def fails_at_level_1(self: EpochLog) -> None:
        if self.describe()["level"] == 1:
            self.sums.loss = self.sums.loss * float("nan")
        train(self)

    spec = TrialSpec(**TICKET)
    monkeypatch.setattr(EpochLog, "after_train", fails_at_level_1)
    record = run_trial(spec, store, "r")
    assert record["reason"] == "the loss was not finite at level 1, epoch 1"
    assert set(record["states"]) == {"initial", "rewind", "final"} and record["layers"][-1]["level"] == 1
    assert run_trial(spec, store, "r")["epochs_trained"] == 0, "it would diverge again"


def test_two_processes_with_the_same_trial_leave_a_sound_store(store: Store) -> None:
    code = (
        "import json, sys; import lth_trainable.training.lifecycle as life, lth_trainable.training.run as run\n"
        "from lth_trainable import Store, TrialSpec; life.RESUME_SECONDS = 0.0\n"
        "sys.stdin.readline()\n"
        "for seed in range(2):\n"
        "    spec = TrialSpec(**json.loads(sys.argv[1]), seed=seed)\n"
        "    print(json.dumps(run.run_trial(spec, Store(sys.argv[2]), 'r')['sha256']))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(TICKET), store.root]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    out = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and out[0] == out[1]
    assert json.loads(out[0].splitlines()[0]) == uninterrupted("imp", store.root)["sha256"]
    trials = list(finished_trials(store, "r"))
    assert len(trials) == 2 and temporary(store) == []
    for folder, record in trials:
        for name in folder.manifest["files"]:
            store.content(folder, name)
        for which in record["states"]:
            load_trial(f"{store.root}/{folder.path}", which)
    assert not Path(store.root, STATES, "quarantine").exists()
    assert run_trial(TrialSpec(**TICKET, seed=1), store, "r")["epochs_trained"] == 0
    assert os.listdir(store.root) and not list(Path(store.root).rglob("*.part"))


def test_a_record_that_another_process_seals_in_the_same_moment_is_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of one trial differ in their seconds: one's manifest must not stand over the other's record."""
    spec, write, others = TrialSpec(**SPECS["dense"]), Store.write, []

    def interleaved(self: Store, path: str, content: bytes) -> None:
        write(self, path, content)
        if path.endswith(RECORD) and not others:
            others.append(path)
            run_trial(spec, Store(store.root), "r")

    monkeypatch.setattr(Store, "write", interleaved)
    record = run_trial(spec, store, "r")
    [(folder, found)] = finished_trials(store, "r")
    assert others == [f"{folder.path}/{RECORD}"] and found["sha256"] == record["sha256"]


@pytest.mark.parametrize("stored_before", [False, True])
def test_a_final_state_that_another_trial_stores_on_its_way_in_the_same_moment_is_evaluated(
    stored_before: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ticket of the same seed ends its level 0 when the dense trial ends; it needs no evaluation there."""
    spec = TrialSpec(**SPECS["dense"])
    alone = run_trial(spec, Store(f"{store.root}/alone"), "r")
    if stored_before:
        run_trial(spec, store, "before")
    plain, others = run_module.record_trial, []  # type: ignore[var-annotated]

    def record_trial(store: Store, run: str, trial: Identity, **more: Any) -> Any:
        if len(others) < 2:
            state = store.find(store.state(trial.state_keys["final"], trial.fingerprint))
            assert state is not None
            files = {name: store.content(state, name) for name in state.manifest["files"]}
            files[HISTORY] = to_json({**json.loads(files[HISTORY]), "evaluation": None})
            about = {name: value for name, value in state.manifest.items() if name not in ("files", "sha256", "format")}
            others.append(store.seal_shared(state.path, files, about))
        return plain(store, run, trial, **more)

    monkeypatch.setattr(run_module, "record_trial", record_trial)
    record = run_trial(spec, store, "r")
    assert len(others) == 2 and record["sha256"] == alone["sha256"] and record["result"] == alone["result"]
    assert record["epochs_trained"] == (0 if stored_before else alone["epochs_trained"])
