"""`analysis.adopt`: trials that no sweep has planned are gathered and judged like a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import analysis
from analysis.__main__ import main
from analysis.tables.run_plan import read_plan
from lth_trainable import Store, TrialSpec, UserError, run_trial
from lth_trainable.tune.config import TASK
from sweeps.status import main as status
from sweeps.storage import main as storage
from tests.support.s3 import s3_server
from tests.support.s3 import storage as s3_uri
from tests.support.tuner import FIELDS, Tuner, tuner_in

TICKET = TrialSpec(epochs=1, target_sparsity_pct=40.0)


def train(store: Path, *specs: TrialSpec, run: str = "alone") -> None:
    for spec in specs:
        run_trial(spec, Store(store), run)


def pair(seed: int) -> tuple[TrialSpec, TrialSpec]:
    return replace(TICKET, seed=seed), replace(TICKET, seed=seed, control="dense")


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuner:
    return tuner_in(tmp_path, monkeypatch)


def write_experiment(folder: Path, trials: Mapping[str, tuple[Mapping[str, Any], list[Mapping[str, Any]]]]) -> Path:
    """The files that Ray writes for an experiment, as far as they are read: config and reports by trial."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment_state-2026-11-29_06-00-00.json").write_text("{}")
    for name, (config, reports) in trials.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "params.json").write_text(json.dumps(config))
        (folder / name / "result.json").write_text("".join(json.dumps(report) + "\n" for report in reports))
    return folder


def test_what_run_trial_has_trained_is_judged_and_every_command_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, *pair(0), *pair(1), replace(TICKET, seed=2), replace(TICKET, seed=0, control="reinit"))
    assert main([str(tmp_path / "alone")]) == 0
    shown = capsys.readouterr().out
    assert "tickets minus dense" in shown and "2 of 3" in shown
    assert "note: digits-lenet_300_100-imp-s40-r0-e1: 1 of 3 seeds form no pair: no dense trial (seed 2)" in shown
    run = analysis.adopt(tmp_path / "alone")
    assert run.ok and run.folder == str(tmp_path / "alone") and Path(run.report).is_file()
    assert sorted(run.trials().role) == ["control", "dense", "dense", "ticket", "ticket", "ticket"]
    assert run.verdicts().iloc[0].n_pairs == 2 and len(run.notes) == 1
    assert set(run.trials().parent.dropna()) == {TICKET.name}
    for command in (["table", str(tmp_path / "alone")], ["table", str(tmp_path)], [str(tmp_path), "--json"]):
        assert main(command) == 0
    assert status([str(tmp_path / "alone")]) == 0 and "6 trials: 6 done" in capsys.readouterr().out
    assert storage(["gc", str(tmp_path)]) == 0 and storage(["check", str(tmp_path)]) == 0
    assert analysis.load(tmp_path).verdicts.equals(run.frames.verdicts)


def test_the_note_on_a_missing_dense_network_names_the_field_in_which_the_nearest_is_another(tmp_path: Path) -> None:
    other = replace(TICKET, control="dense", lr=0.003)
    train(tmp_path, TICKET, other, replace(TICKET, control="dense", lr=0.003, batch_size=64))
    (note,) = analysis.adopt(tmp_path).notes
    assert note.endswith(f"; the nearest, {other.name}, has lr=0.003 where the ticket has lr={TICKET.lr}")
    train(tmp_path / "b", TICKET, replace(TICKET, control="dense", epochs=2))
    (note,) = analysis.adopt(tmp_path / "b").notes
    assert "no dense baseline of 1 epoch;" in note and "has epochs=2 where the ticket has epochs=1" in note
    train(tmp_path, replace(TICKET, control="dense", seed=1))
    (note,) = analysis.adopt(tmp_path).notes
    assert "no dense trial (seed 0)" in note and "has lr=0.003" in note
    train(tmp_path, replace(TICKET, control="dense"))
    assert analysis.adopt(tmp_path).notes == ()


@pytest.mark.parametrize("source", [".", "alone", f"alone/trials/{TICKET.name}", Store])
def test_the_store_the_folder_and_a_trials_folder_name_the_same_run(source: Any, tmp_path: Path) -> None:
    train(tmp_path, *pair(0))
    run = analysis.adopt(Store(tmp_path) if source is Store else tmp_path / source)
    assert run.folder == str(tmp_path / "alone") and len(run.trials()) == 2


def test_adopting_again_adds_what_is_new_and_keeps_the_terms_until_others_are_named(tmp_path: Path) -> None:
    train(tmp_path, *pair(0))
    assert analysis.adopt(tmp_path, margin_pp=2.0, claim="Well?").verdicts().margin_pp[0] == 2.0
    plan = (tmp_path / "alone" / "plan.json").read_bytes()
    analysis.gather(tmp_path / "alone")
    assert (tmp_path / "alone" / "plan.json").read_bytes() == plan
    train(tmp_path, *pair(1))
    run = analysis.adopt(tmp_path)
    assert len(run.trials()) == 4 and run.verdicts().margin_pp[0] == 2.0
    run = analysis.adopt(tmp_path, margin_pp=1.0)
    assert run.verdicts().margin_pp[0] == 1.0 and analysis.load(tmp_path).verdicts.margin_pp[0] == 1.0
    commands = read_plan(Store(tmp_path), "alone").commands
    assert [command[-1] for command in commands if "--margin-pp" in command] == ["2.0", "1.0"], "each rule is on record"
    assert read_plan(Store(tmp_path), "alone").claim == "Well?"


def test_a_restored_trial_is_shown_but_no_verdict_counts_it(tuner: Tuner, tmp_path: Path) -> None:
    store = tmp_path / "store"
    tuner.fit(store)
    tuner.fit(store, tuner.checkpoints[2], lr=3e-3)
    tuner.fit(store, control="dense")
    tuner.fit(store, control="dense", lr=3e-3)
    run = analysis.adopt(store)
    trials = run.trials().set_index("trial")
    [restored] = [name for name in trials.index if "-restored-" in name]
    assert trials.status[restored] == "restored" and "went on with other settings" in trials.reason[restored]
    assert trials.test_accuracy[restored] > 0 and run.ok
    assert any("no verdict counts it" in note for note in run.notes)
    verdicts = run.verdicts()
    assert set(verdicts.group) == {TrialSpec(**FIELDS).name.removesuffix("-seed0")}, "not that of its own fields"
    tuner.fit(store, lr=3e-3)
    run = analysis.adopt(store)
    [matches] = run.verdicts().query("claim == 'matches' and group.str.contains('lr0.003')").itertuples()
    assert matches.n_pairs == 1 and matches.n_unpaired == 0, "an ordinary trial of the same fields is judged as ever"
    assert run.verdicts().equals(analysis.gather(run.folder).verdicts[run.verdicts().columns]), "read from the index"


def test_an_experiment_names_its_trials_and_those_without_a_record_are_missing(
    tuner: Tuner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "experiment"
    done = {}
    for number, control in enumerate(("none", "dense")):
        reports = list(tuner.fit(folder / "store", control=control))
        done[str(number)] = ({**FIELDS, "control": control}, reports)
    stopped = ({**FIELDS, "seed": 1}, [{"valid_accuracy": 0.5, "epoch": 0}])
    write_experiment(folder, {**done, "again": done["0"], "stopped": stopped, "bad": ({"sed": 3}, [])})
    train(folder / "store", replace(TICKET, seed=5), run="tune")
    with (folder / "0" / "result.json").open("a") as file:
        file.write('{"valid_accu')  # cut by a kill: then its config says what it is
    run = analysis.adopt(folder)
    assert run.folder == str(folder / "store" / "tune") and not run.ok
    statuses = run.trials().set_index("trial").status
    assert statuses[TrialSpec(**FIELDS, seed=1).name] == "missing" and sorted(statuses) == ["done"] * 3 + ["missing"]
    said = " | ".join(run.notes)
    for words in (
        "1 trial of the experiment without a record",
        "1 other trial in the same folder",
        "did you mean seed?",
    ):
        assert words in said
    assert main([str(folder)]) == 0 and run.report in capsys.readouterr().out
    assert main(["table", str(folder)]) == 0 and "| dense, 2 epochs |" in capsys.readouterr().out
    shutil.copytree(folder, tmp_path / "moved")
    assert analysis.adopt(tmp_path / "moved").folder == str(tmp_path / "moved" / "store" / "tune")


def test_a_checkpoint_says_more_than_the_config_of_a_function_around_the_trainable(
    tuner: Tuner, tmp_path: Path
) -> None:
    folder = tmp_path / "experiment"
    done = list(tuner.fit(folder / "store", control="dense"))
    tuner.stops_after = 3  # by a scheduler, after its first level
    with pytest.raises(SystemExit):
        tuner.fit(folder / "store", seed=3)
    write_experiment(folder, {"0": ({"x": 1}, done), "1": ({"x": 2}, [{"valid_accuracy": 0.5}])})
    run = analysis.adopt(folder)
    statuses = run.trials().set_index("trial").status
    names = TrialSpec(**FIELDS, control="dense").name, TrialSpec(**FIELDS, seed=3).name
    assert dict(statuses) == {names[0]: "done", names[1]: "missing"}


def test_a_ray_trial_that_failed_at_once_is_named_and_no_trial_is_invented_for_it(tuner: Tuner, tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    tuner.fit(folder / "store")
    done = SimpleNamespace(path="a/0", config=FIELDS, metrics=tuner.reports[-1])
    failed = [SimpleNamespace(path=f"a/f{number}", config=None, metrics=None) for number in range(2)]

    class Grid(list[SimpleNamespace]):
        experiment_path, filesystem = str(folder), Store(folder).fs

    run = analysis.adopt(Grid([done, *failed]))
    assert len(run.trials()) == 1
    assert "2 Ray trials trained no ticket, such as f0: it failed before its first report" in run.notes


def test_equal_ray_trials_count_once_and_that_is_said(tuner: Tuner, tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    reports = list(tuner.fit(folder / "store"))
    write_experiment(folder, dict.fromkeys(("0", "1", "2"), (FIELDS, reports)))
    run = analysis.adopt(folder)
    assert len(run.trials()) == 1 and "3 Ray trials are the same trial" in run.notes[0]


def test_a_file_of_an_experiment_is_not_followed_to_another_store(tmp_path: Path) -> None:
    train(tmp_path / "other", TICKET, run="tune")
    config = {**FIELDS, "storage": str(tmp_path / "other")}
    folder = write_experiment(tmp_path / "experiment", {"0": (config, [])})
    with pytest.raises(UserError, match=r"adopt\('.*/other/tune'\)"):
        analysis.adopt(folder)
    assert not (tmp_path / "other" / "tune" / "plan.json").exists()


def test_an_experiment_of_a_sweep_leads_to_its_run(tmp_path: Path) -> None:
    task = json.dumps({"storage": str(tmp_path), "run": "alone"})
    result = SimpleNamespace(path="x", metrics={}, config={TASK: task})

    class Grid(list[SimpleNamespace]):
        experiment_path, filesystem = str(tmp_path / "alone" / "ray" / "1"), Store(tmp_path).fs

    train(tmp_path, *pair(0))
    assert analysis.adopt(Grid([result, result])).folder == str(tmp_path / "alone")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: "nowhere", r"found .*nowhere'; expected a folder that run_trial has written to"),
        (lambda folder: folder, "expected a folder that run_trial has written to"),
        (lambda folder: 3, r"found 'int'; .*its ResultGrid"),
        (lambda folder: Store(folder), "found no trials; expected one run"),
        (lambda folder: write_experiment(folder / "e", {}), "found no trials that ticket_trainable has finished"),
        (lambda folder: write_experiment(folder / "e", {"0": ({"x": 1}, [])}), "found no trials .*config: found 'x'"),
    ],
)
def test_what_has_no_trials_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        analysis.adopt(make(tmp_path))


def test_several_runs_and_a_lost_plan_are_refused(tmp_path: Path) -> None:
    train(tmp_path, TICKET)
    train(tmp_path, TICKET, run="other")
    with pytest.raises(UserError, match=r"several runs \(.*/alone, .*/other\); expected one run; name it"):
        analysis.adopt(tmp_path)
    analysis.adopt(tmp_path / "alone")
    (tmp_path / "alone" / "plan.json").unlink()
    for call in (analysis.adopt, analysis.gather):
        with pytest.raises(UserError, match=r"found terms.json but no plan.json"):
            call(tmp_path / "alone")


def test_the_plan_of_a_sweep_stays_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "digits"
    shutil.copytree(Path(__file__).parents[1] / "data" / "digits_small", run)
    before = (run / "plan.json").read_bytes()
    assert analysis.adopt(run).folder == str(run) and (run / "plan.json").read_bytes() == before
    with pytest.raises(UserError, match=r"adopt: margin_pp: found 7.0; expected .* as the sweep of"):
        analysis.adopt(run, margin_pp=7.0)


def test_trials_on_an_object_store_are_adopted_by_their_uri(tmp_path: Path) -> None:
    with s3_server() as server:
        for spec in pair(0):
            run_trial(spec, Store(s3_uri(server, "runs")), "alone")
        run = analysis.adopt(s3_uri(server, "runs/alone"))
        assert run.folder == s3_uri(server, "runs/alone") and len(run.trials()) == 2
        assert analysis.adopt(s3_uri(server, "runs")).folder == run.folder
        assert analysis.adopt(s3_uri(server, f"runs/alone/trials/{TICKET.name}")).folder == run.folder
        assert main(["table", s3_uri(server, "runs/alone")]) == 0
        with pytest.raises(UserError, match="expected a folder that run_trial has written to"):
            analysis.adopt(s3_uri(server, "nothing"))
