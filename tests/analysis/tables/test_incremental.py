"""Gathering again reads only what has changed, and gives the bytes that gathering from nothing gives."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analysis
import analysis.tables.inputs
import analysis.tables.records
from analysis.tables.exclusions import change_exclusions
from analysis.tables.index import INDEX
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import FAILURE, RECORD, Store, to_json
from tests.support.records import LONG_AGO, dense, drops, ladder, make_run, plan, record, seal, settle

ACCURACY = drops({None: 0.96, 64: 0.955, 87.04: 0.95})
SPECS = [*dense(2), *ladder(64, 87.04, seeds=2)]
pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the trials whose files are read, in order."""
    names: list[str] = []
    real = analysis.tables.records.read_trial

    def spy(store: Store, run: str, name: str, planned: Any) -> Any:
        names.append(name)
        return real(store, run, name, planned)

    monkeypatch.setattr(analysis.tables.records, "read_trial", spy)
    return names


def settled_run(storage: Path, specs: list[TrialSpec] = SPECS, **more: Any) -> Path:
    run = make_run(storage, specs, ACCURACY, **more)
    settle(run)
    return run


def tables(run: Path) -> dict[str, bytes]:
    """The Parquet of a run, by path."""
    files = [path for path in (run / "analysis").rglob("*.parquet") if path.is_file()]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def from_nothing(run: Path, elsewhere: Path) -> dict[str, bytes]:
    """The same run, gathered without what was gathered before."""
    copy = elsewhere / run.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "analysis")
    analysis.gather(copy)
    return tables(copy)


# -- what is read ------------------------------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, read: list[str]) -> None:
    run = settled_run(tmp_path)
    first = analysis.gather(run)
    assert read == [spec.name for spec in SPECS]
    before = tables(run)
    read.clear()
    again = analysis.gather(run)
    assert read == []
    assert tables(run) == before
    assert analysis.as_rows(again.trials) == analysis.as_rows(first.trials)


def test_only_what_is_new_or_changed_is_read(tmp_path: Path, read: list[str]) -> None:
    run = settled_run(tmp_path, skip=[SPECS[2].name])
    analysis.gather(run)
    read.clear()
    seal(tmp_path, SPECS[2], record(SPECS[2], 0.9))
    seal(tmp_path, SPECS[4], record(SPECS[4], 0.8))
    settle(run, LONG_AGO + 1)
    frames = analysis.gather(run)
    assert read == [SPECS[2].name, SPECS[4].name]
    assert frames.trials.test_accuracy[[2, 4]].tolist() == [0.9, 0.8]
    assert tables(run) == from_nothing(run, tmp_path / "elsewhere")


def test_a_file_just_written_is_read_next_time_too(tmp_path: Path, read: list[str]) -> None:
    run = settled_run(tmp_path)
    os.utime(run / "trials" / SPECS[1].name / RECORD, (4_000_000_000, 4_000_000_000))
    analysis.gather(run)
    read.clear()
    analysis.gather(run)
    assert read == [SPECS[1].name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / INDEX).unlink(),
        lambda folder: (folder / INDEX).write_text("{"),
        lambda folder: (folder / INDEX).write_text("[]"),
        lambda folder: (folder / "epochs.parquet").unlink(),
        lambda folder: (folder / "trials.parquet").write_bytes((folder / "trials.parquet").read_bytes()[:-1]),
        lambda folder: _change(folder / INDEX, code="of another version"),
        lambda folder: _change(folder / INDEX, format=3),
    ],
)
def test_without_a_last_gather_that_can_be_used_all_is_read(tmp_path: Path, read: list[str], damage: Any) -> None:
    run = settled_run(tmp_path)
    analysis.gather(run)
    before = tables(run)
    read.clear()
    damage(run / "analysis")
    analysis.gather(run)
    assert read == [spec.name for spec in SPECS]
    assert tables(run) == before


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_that_was_moved_is_another_run(tmp_path: Path) -> None:
    run = settled_run(tmp_path)
    analysis.gather(run)
    moved = run.rename(tmp_path / "moved")
    frames = analysis.gather(moved)
    for name in ("trials", "epochs", "levels", "layers", "verdicts"):
        assert set(getattr(frames, name).run) == {"moved"}


def test_a_key_that_the_plan_does_not_ask_for_is_found_without_a_change_of_files(tmp_path: Path) -> None:
    run = settled_run(tmp_path)
    analysis.gather(run)
    content = plan(SPECS)
    content["trials"][0]["key"] = "0" * 64
    (run / "plan.json").write_bytes(to_json(content))
    row = analysis.as_rows(analysis.gather(run).trials)[0]
    assert (row["status"], row["test_accuracy"]) == ("damaged", None)


# -- whatever the history ----------------------------------------------------------------------------------------------


def test_every_history_ends_in_the_bytes_of_none(tmp_path: Path, read: list[str]) -> None:
    late, stray = SPECS[3], TrialSpec(target_sparsity_pct=64, seed=7)
    run = settled_run(tmp_path / "runs", skip=[late.name, SPECS[5].name])

    def sealed(spec: TrialSpec, accuracy: float | None) -> None:
        seal(tmp_path / "runs", spec, record(spec, accuracy))

    def planned(specs: list[TrialSpec]) -> None:
        (run / "plan.json").write_bytes(to_json(plan(specs)))

    steps = [
        lambda: sealed(late, 0.91),
        lambda: sealed(SPECS[2], None),
        lambda: (run / "trials" / SPECS[4].name / RECORD).write_bytes(b"{"),
        lambda: shutil.rmtree(run / "trials" / SPECS[0].name),
        lambda: Store(run).write(f"trials/{SPECS[5].name}/{FAILURE}", to_json({"reason": "out of memory"})),
        lambda: sealed(stray, 0.93),
        lambda: change_exclusions(run, exclude=[late.name, SPECS[1].name], reason="a broken disk"),
        lambda: planned([*reversed(SPECS), stray]),
        lambda: change_exclusions(run, include=[late.name]),
        lambda: sealed(SPECS[4], 0.94),
        lambda: sealed(SPECS[2], 0.95),
    ]
    for number, step in enumerate(steps):
        step()
        settle(run, LONG_AGO + number)
        read.clear()
        analysis.gather(run)
        assert len(read) < len(SPECS), "most of it is known"
        assert tables(run) == from_nothing(run, tmp_path / "elsewhere"), f"after step {number}"


def test_gathering_from_nothing_twice_leaves_one_index(tmp_path: Path) -> None:
    run = settled_run(tmp_path)
    analysis.gather(run)
    first = (run / "analysis" / INDEX).read_bytes()
    shutil.rmtree(run / "analysis")
    analysis.gather(run)
    assert (run / "analysis" / INDEX).read_bytes() == first


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths that are written, in order."""
    paths: list[str] = []
    real = Store.write

    def spy(store: Store, path: str, content: bytes) -> None:
        paths.append(path)
        real(store, path, content)

    monkeypatch.setattr(Store, "write", spy)
    return paths


def rewritten(run: Path, made: list[str]) -> bool:
    """Gather; whether that makes the results again. The tables must be those from nothing."""
    made.clear()
    frames = analysis.gather(run)
    again = bool(made)
    assert {name: frames.tables[name].num_rows for name in frames.tables} == {
        name: table.num_rows for name, table in analysis.load(run).tables.items()
    }
    assert tables(run) == from_nothing(run, run.parent / "elsewhere")
    return again


def test_results_are_made_again_only_if_something_has_changed(tmp_path: Path, made: list[str]) -> None:
    run = settled_run(tmp_path)
    assert rewritten(run, made)
    assert not rewritten(run, made)
    (run / "report.html").write_text("edited")
    assert rewritten(run, made) and not rewritten(run, made)
    (run / "analysis" / "verdicts.parquet").unlink()
    assert rewritten(run, made) and not rewritten(run, made)
    change_exclusions(run, exclude=[SPECS[-1].name], reason="a broken fan")
    assert rewritten(run, made) and not rewritten(run, made)
    seal(tmp_path, SPECS[0], record(SPECS[0], 0.5))
    assert rewritten(run, made) and rewritten(run, made), "a young file may change again unnoticed"
    settle(run)
    assert rewritten(run, made) and not rewritten(run, made)
    failure = run / "trials" / "another" / FAILURE
    failure.parent.mkdir()
    failure.write_bytes(to_json({"reason": "it failed"}))
    settle(run)
    assert rewritten(run, made) and not rewritten(run, made)


def test_another_plan_code_or_library_makes_the_results_again(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settled_run(tmp_path)
    assert rewritten(run, made) and not rewritten(run, made)
    (run / "plan.json").write_bytes(to_json(plan(SPECS, claim="Another question?")))
    assert rewritten(run, made) and not rewritten(run, made)
    monkeypatch.setattr(analysis.tables.inputs, "_code", lambda: {"scipy": "another"})
    assert rewritten(run, made) and not rewritten(run, made)


def test_with_very_many_trials_it_waits_until_no_file_is_young(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis.tables.inputs, "MANY", len(SPECS))
    run = make_run(tmp_path, SPECS, ACCURACY)
    assert rewritten(run, made) and not rewritten(run, made)
