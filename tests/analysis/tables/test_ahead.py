"""Records that are read while others still train: the gather gives the same bytes, and reads them only once."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import analysis
import analysis.tables.records
from analysis.tables import ahead
from analysis.tables.ahead import Ahead, read_early
from lth_trainable.errors import StorageError
from lth_trainable.store.store import RECORD, Store
from tests.analysis.tables.test_incremental import ACCURACY, SPECS, from_nothing, read, tables
from tests.support.records import make_run, record, seal, settle

pytestmark = pytest.mark.usefixtures("without_report")
FIRST, SECOND, *_ = SPECS
__all__ = ["read"]


def settled_run(storage: Path) -> Path:
    run = make_run(storage, SPECS, ACCURACY)
    settle(run)
    return run


def early_of(run: Path, *names: str) -> dict[str, ahead.Early]:
    found = {name: read_early(Store(run.parent), run.name, name) for name in names}
    return {name: early for name, early in found.items() if early is not None}


def test_what_was_read_early_is_not_read_again_and_the_bytes_are_the_same(tmp_path: Path, read: list[str]) -> None:
    run = settled_run(tmp_path / "a")
    early = early_of(run, SPECS[3].name, FIRST.name)
    read.clear()
    analysis.gather(run, early=early)
    assert read == [spec.name for spec in SPECS if spec.name not in early]
    assert tables(run) == from_nothing(run, tmp_path / "b")
    index = json.loads((run / "analysis" / "index.json").read_text())["trials"]
    assert index.keys() == {spec.name for spec in SPECS}
    read.clear()
    analysis.gather(run)
    assert read == []


def test_a_record_that_changed_after_it_was_read_early_is_read_again(tmp_path: Path, read: list[str]) -> None:
    run = settled_run(tmp_path / "a")
    early = early_of(run, FIRST.name, SECOND.name)
    seal(run.parent, FIRST, record(FIRST, 0.5))
    settle(run, 1000)
    read.clear()
    frames = analysis.gather(run, early=early)
    assert FIRST.name in read and frames.rows("trials")[0]["test_accuracy"] == pytest.approx(0.5, abs=0.01)
    assert tables(run) == from_nothing(run, tmp_path / "b")


def test_a_record_that_is_not_the_one_of_the_plan_is_damaged_as_before(tmp_path: Path) -> None:
    run = settled_run(tmp_path / "a")
    wrong = record(FIRST, 0.5) | {"key": "0" * 64}
    seal(run.parent, FIRST, wrong)
    settle(run)
    frames = analysis.gather(run, early=early_of(run, FIRST.name))
    assert frames.rows("trials")[0]["status"] == "damaged"


def test_a_trial_without_a_settled_record_is_left_to_the_gather(tmp_path: Path) -> None:
    run = make_run(tmp_path, SPECS, ACCURACY, skip=[SECOND.name])
    assert early_of(run, FIRST.name, SECOND.name, "unknown") == {}  # too young, not there
    settle(run)
    assert early_of(run, FIRST.name, SECOND.name).keys() == {FIRST.name}
    (run / "trials" / FIRST.name / RECORD).write_text("{}")
    settle(run)
    assert early_of(run, FIRST.name) == {}


def test_a_thread_reads_what_has_been_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "SETTLED_SECONDS", 0.0)
    run = settled_run(tmp_path)
    reader = Ahead(store=Store(run.parent), run=run.name)
    with reader.reading():
        for spec in SPECS[:3]:
            reader.add(spec.name)
        while len(reader.found) < 3:
            time.sleep(0.01)
    assert reader.found.keys() == {spec.name for spec in SPECS[:3]}


def test_the_end_does_not_wait_for_records_to_settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "SETTLED_SECONDS", 1e6)
    reader = Ahead(store=Store(tmp_path), run="run")
    with reader.reading():
        reader.add(FIRST.name)
    assert reader.found == {}


def test_a_storage_that_fails_meanwhile_is_left_to_the_gather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "SETTLED_SECONDS", 0.0)
    run, asked = settled_run(tmp_path), []

    def fails(store: Store, run: str, trial: str) -> Any:
        asked.append(trial)
        raise StorageError("no answer")

    monkeypatch.setattr(ahead, "read_early", fails)
    reader = Ahead(store=Store(run.parent), run=run.name)
    with reader.reading():
        reader.add(FIRST.name)
        reader.add(SECOND.name)
        while len(asked) < 2:
            time.sleep(0.01)
    assert reader.found == {}


def test_the_end_does_not_wait_for_a_storage_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(ahead, "JOIN_SECONDS", 0.0)
    asked, answer = threading.Event(), threading.Event()

    def hangs(store: Store, run: str, trial: str) -> None:
        asked.set()
        answer.wait()

    monkeypatch.setattr(ahead, "read_early", hangs)
    reader = Ahead(store=Store(tmp_path), run="run")
    with reader.reading():
        reader.add(FIRST.name)
        asked.wait()
    assert not answer.is_set() and reader.found == {}
    answer.set()
