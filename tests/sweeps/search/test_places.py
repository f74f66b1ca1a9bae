"""Studies outside the run's folder: databases, journal files and the user's own objects, and what does not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from lth_trainable.errors import BAD_INPUT, StorageError, UserError
from lth_trainable.store.store import Store
from sweeps import lth_search
from sweeps.experiments.recipes import digits
from sweeps.search.axes import Choice, Range
from sweeps.search.places import place_of
from sweeps.search.searches import Search
from sweeps.search.study import Study

RUN = "search"
SEARCH = Search(
    sweep=replace(digits(), name=RUN, seeds=(0,), base={"epochs": 2}, axes={}),
    axes={"target_sparsity_pct": Range(low=50.0, high=90.0), "rewind_epoch": Choice(values=(0, 1))}, sampler="random",
    suggestions=3,
).check()  # fmt: skip


def work(study: Study, most: int = 3) -> list[int]:
    """Suggestions with results that follow from their points; returns their numbers."""
    numbers = []
    for _ in range(most):
        asked = study.ask()
        sparsity = asked.point["target_sparsity_pct"]
        study.note(asked.number, trials=[f"t{asked.number}"])
        study.tell(asked.number, {"accuracy": 1 / sparsity, "sparsity": sparsity})
        numbers.append(asked.number)
    study.close()
    return numbers


@pytest.fixture(params=["database", "journal"])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/all.db" if request.param == "database" else f"{tmp_path}/all.log"


def test_a_study_elsewhere_is_gone_on_with_and_draws_what_the_runs_own_would(at: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    work(Study(SEARCH, store, RUN, at), 2)
    again = Study(SEARCH, store, RUN, at)
    work(again, 1)
    own = Study(SEARCH, Store(tmp_path / "others"), RUN)
    work(own)
    assert [t.params for t in again.trials()] == [t.params for t in own.trials()]
    assert again.n_told == 3 and again.notes == [] and again.uri == at


def test_one_database_holds_the_studies_of_many_runs(at: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    for run in ("a", "b"):
        work(Study(SEARCH, store, run, at))
    assert [len(Study(SEARCH, store, run, at).trials()) for run in ("a", "b")] == [3, 3]


def test_a_run_keeps_its_study(at: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    work(Study(SEARCH, store, RUN, at))
    with pytest.raises(UserError, match=r"its study is .*all.* give it with --study"):
        Study(SEARCH, store, RUN)
    with pytest.raises(UserError, match=r"found none of it in sqlite.*give the first one"):
        Study(SEARCH, store, RUN, f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(UserError, match=r"belongs to the search .*/runs/search; choose another --name"):
        Study(SEARCH, Store(tmp_path / "of_a_colleague"), RUN, at)
    work(Study(SEARCH, store, "own"))
    with pytest.raises(UserError, match="run the command without --study"):
        Study(SEARCH, store, "own", at)


def test_a_run_that_was_moved_keeps_its_study(at: str, tmp_path: Path) -> None:
    work(Study(SEARCH, Store(tmp_path / "runs"), RUN, at), 1)
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert Study(SEARCH, Store(tmp_path / "moved"), RUN, at).n_told == 1


def test_a_mistyped_study_does_not_bind_the_run(at: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    other = optuna.create_study(study_name=RUN, storage=f"sqlite:///{tmp_path}/other.db", directions=["minimize"])
    for wrong in (f"sqlite:///{tmp_path}/other.db", str(tmp_path)):
        with pytest.raises(UserError):
            Study(SEARCH, store, RUN, wrong)
    assert work(Study(SEARCH, store, RUN, at), 1) == [0] and not other.user_attrs


def done(params: dict[str, Any], axes: dict[str, Any], values: list[float]) -> optuna.trial.FrozenTrial:
    return create_trial(state=TrialState.COMPLETE, params=params, distributions=axes, values=values)


FLOAT = optuna.distributions.FloatDistribution
OTHERS: dict[str, tuple[Callable[[optuna.Study], Any], list[str], str]] = {
    "directions": (lambda study: None, ["maximize", "minimize"], "found 'maximize .*, minimize .*'; expected"),
    "number": (lambda study: None, ["maximize"], "found 'maximize .*'; expected maximize accuracy, maximize sparsity"),
    "metrics": (lambda s: s.set_metric_names(["f1", "size"]), ["maximize"] * 2, "found 'maximize f1, maximize size'"),
    "axis": (
        lambda s: s.add_trial(done({"x": 1.0}, {"x": FLOAT(0, 2)}, [1, 2])), ["maximize"] * 2, "found 'trial 0 over x'",
    ),
    "values": (
        lambda s: s.add_trial(
            done({"rewind_epoch": 0}, {"rewind_epoch": optuna.distributions.CategoricalDistribution((0, 2))}, [1, 2])
        ),
        ["maximize"] * 2, "found 'trial 0 with rewind_epoch from Categorical.*expected rewind_epoch from 0, 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_a_study_of_something_else_is_refused_and_left_alone(other: str, at: str, tmp_path: Path) -> None:
    change, directions, message = OTHERS[other]
    storage = place_of(at, Store(tmp_path), RUN).open()
    study = optuna.create_study(study_name=RUN, storage=storage, directions=directions)
    change(study)
    before = study.get_trials(), study.user_attrs
    with pytest.raises(UserError, match=message) as caught:
        Study(SEARCH, Store(tmp_path / "runs"), RUN, at)
    assert "\n" not in str(caught.value) and "choose another" in str(caught.value)
    assert (study.get_trials(), study.user_attrs) == before


def test_trials_of_others_are_told_of_and_left_alone(at: str, tmp_path: Path) -> None:
    storage, store = place_of(at, Store(tmp_path), RUN).open(), Store(tmp_path / "runs")
    theirs = optuna.create_study(study_name=RUN, storage=storage, directions=["maximize"] * 2)
    axis = {"target_sparsity_pct": FLOAT(50, 90)}
    theirs.add_trial(done({"target_sparsity_pct": 89.0}, axis, [2.0, 90.0]))
    running = theirs.ask()
    theirs.enqueue_trial({"target_sparsity_pct": 77.0})
    study = Study(SEARCH, store, RUN, at)
    assert (study.n_of_others, study.n_queued) == (2, 1)
    assert "queued in the study: 1" in study.notes[0] and "not of this search: 2" in study.notes[1]
    assert work(study, 2) == [2, 3]  # the one that was queued for whoever asks, then a new one
    assert study.trials()[0].params["target_sparsity_pct"] == 77.0
    assert study.front <= {2, 3} and study.n_told == 2
    again = Study(SEARCH, store, RUN, at)
    assert again.n_of_others == 2
    assert theirs.get_trials()[running.number].state is TrialState.RUNNING


def test_a_value_that_was_queued_and_is_on_no_axis_fails_that_suggestion_only(tmp_path: Path) -> None:
    mine = optuna.create_study(directions=["maximize"] * 2)
    mine.enqueue_trial({"rewind_epoch": 7})
    study = Study(SEARCH, Store(tmp_path), RUN, mine)
    assert work(study, 1) == [1]
    assert mine.trials[0].state is TrialState.FAIL and "queued" in mine.trials[0].user_attrs["reason"]


def test_a_users_own_study_keeps_its_sampler_and_its_trials(tmp_path: Path) -> None:
    sampler = optuna.samplers.QMCSampler(seed=3)
    mine = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
    study = Study(SEARCH, Store(tmp_path), RUN, mine)
    assert mine.sampler is sampler
    assert "own QMCSampler" in study.notes[0] and "in memory" in study.notes[1]
    work(study)
    assert [t.state.name for t in mine.trials] == ["COMPLETE"] * 3
    assert mine.trials[0].user_attrs["trials"] == ["t0"] and mine.metric_names == ["accuracy", "sparsity"]
    assert not list(tmp_path.rglob("*.db")) + list(tmp_path.rglob("study.json"))


def test_a_users_own_study_in_a_database_is_gone_on_with(tmp_path: Path) -> None:
    url, store = f"sqlite:///{tmp_path}/mine.db", Store(tmp_path / "runs")
    mine = optuna.create_study(study_name="mine", storage=url, directions=["maximize"] * 2)
    work(Study(SEARCH, store, RUN, mine), 1)
    again = Study(SEARCH, store, RUN, optuna.load_study(study_name="mine", storage=url))
    assert again.n_told == 1 and again.uri == url
    with pytest.raises(UserError, match="give it with --study"):
        Study(SEARCH, store, RUN)


# -- what cannot be opened ---------------------------------------------------------------------------------------------

BAD = {
    "postgresql://me@127.0.0.1:1/x": "pip install", "postgres://h/x": "PostgreSQL|postgres", "nonsense://x": "nonsense",
    "sqlite://": "in memory", "sqlite:///:memory:": "in memory", "sqlite:x.db": "expected sqlite:///FILE",
    "no/such/folder/x.log": "folder of this journal file", "study.db": "expected sqlite:///study.db",
    ".": "journal file of", "": "expected sqlite:///FILE",
}  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_a_study_that_cannot_be_opened_is_one_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = lth_search.main(["--study", url, "--storage", f"{tmp_path}/runs"])
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert code in (BAD_INPUT, 1) and error.startswith("error: study")
    assert any(words in error for words in BAD[url].split("|"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/x", "postgresql+psycopg://me:hunter2@host/x", "mysql://:hunter2@host/x",
        "postgresql://host/x?user=me&password=hunter2",
    ],
)  # fmt: skip
def test_a_password_in_the_url_of_a_study_is_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lth_search.main(["--study", url, "--storage", f"{tmp_path}/runs"]) == BAD_INPUT
    shown = "".join(capsys.readouterr())
    assert "hunter2" not in shown and "~/.pgpass" in shown and shown.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="credentials"):
        Study(SEARCH, Store(tmp_path), RUN, url)


def test_the_password_of_a_users_own_study_is_shown_and_written_nowhere(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/mine.db", directions=["maximize"] * 2)
    study._storage._backend.url = "postgresql://me:hunter2@x@host/db?password=hunter2"  # type: ignore[attr-defined]
    mine = Study(SEARCH, Store(tmp_path / "runs"), RUN, study)
    assert "hunter2" not in mine.uri and mine.uri.startswith("postgresql://me@")
    assert not any(b"hunter2" in path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file())


def test_a_journal_goes_on_behind_a_line_that_a_killed_process_left_half_written(tmp_path: Path) -> None:
    at, store = f"{tmp_path}/all.log", Store(tmp_path / "runs")
    work(Study(SEARCH, store, RUN, at), 2)
    sound = Path(at).read_bytes()
    Path(at).write_bytes(sound + b'{"op_code":4,"worker')
    assert work(Study(SEARCH, store, RUN, at), 1) == [2]
    assert Path(at).read_bytes().startswith(sound)
    assert Study(SEARCH, store, RUN, at).n_told == 3


@pytest.mark.parametrize("content", [b"SQLite format 3\0 a\nb", b"my notes\nof today", b"x", b"[]\n", b"\n"], ids=repr)
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    at = tmp_path / "mine"
    at.write_bytes(content)
    with pytest.raises(UserError, match="expected a journal file of Optuna, or a file that does not exist") as caught:
        Study(SEARCH, Store(tmp_path / "runs"), RUN, str(at))
    assert (f"sqlite:///{at}" in str(caught.value)) == content.startswith(b"SQLite")
    assert at.read_bytes() == content and sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


@pytest.mark.parametrize("content", [b"", b'{"op', b'{"op_code":4,"worker'], ids=repr)
def test_a_journal_whose_first_line_was_never_finished_begins_anew(content: bytes, tmp_path: Path) -> None:
    at = tmp_path / "all.log"
    at.write_bytes(content)
    assert work(Study(SEARCH, Store(tmp_path / "runs"), RUN, str(at)), 1) == [0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_journal_that_may_not_be_written_is_the_storages_trouble(tmp_path: Path) -> None:
    at = tmp_path / "all.log"
    at.touch(mode=0o400)
    with pytest.raises(StorageError, match="cannot be written"):
        Study(SEARCH, Store(tmp_path / "runs"), RUN, str(at))
