"""What the analysis writes, killed after each step: tables, index, report, exclusions, archives, exports, tickets."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import analysis
from analysis.export.archive import pack
from analysis.export.hub import export_to_hub
from analysis.export.tickets import export
from analysis.tables import parquet
from analysis.tables.exclusions import change_exclusions, read_exclusions
from analysis.tables.index import INDEX, write_noted
from analysis.tables.schema import TABLES, table
from lth_trainable.data.cache import _keep
from lth_trainable.errors import UserError
from lth_trainable.pruning.ticket import Ticket, load_ticket, save_ticket
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store, to_json
from lth_trainable.training.run import run_trial
from tests.support.crash_points import left_by_kills, parts
from tests.support.records import dense, drops, ladder, make_run, plan, record, seal, settle
from tests.support.runs import plan_of

ACCURACY = drops({None: 0.96, 64: 0.955})
SPECS = [*dense(2), *ladder(64, seeds=2)]
HOURS_AGO = time.time() - 7200


def run_of(storage: Path, gathered: bool, specs: Any = SPECS) -> Path:
    """A run; gathered: before its last trial was finished."""
    run = make_run(storage, specs, ACCURACY, skip=[specs[-1].name] if gathered else [])
    settle(run)
    if gathered:
        analysis.gather(run)
        seal(storage, specs[-1], record(specs[-1], ACCURACY(specs[-1])))
        settle(run)
    return run


def written(run: Path) -> dict[str, bytes]:
    """Tables, index and report."""
    paths = [path for path in (*(run / "analysis").rglob("*"), run / "report.html") if path.is_file()]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


def tables_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path.endswith(".parquet")}


def reading(run: Path) -> str:
    """What who reads the tables is told; empty if they are whole."""
    try:
        analysis.load(run)
    except UserError as error:
        return str(error)
    return ""


# -- tables, index and report ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    ("gathered", "rows", "every"),
    [
        (True, parquet.PART_ROWS, 5),
        (True, 3, 16),
        *(
            pytest.param(gathered, rows, 1, marks=pytest.mark.slow)
            for gathered in (False, True)
            for rows in (parquet.PART_ROWS, 3)
        ),
    ],
)
def test_a_gather_that_is_killed_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gathered: bool, rows: int, every: int
) -> None:
    """gathered: there are tables of before. rows: of a file; more of them are a folder of shards."""
    monkeypatch.setattr(parquet, "PART_ROWS", rows)
    monkeypatch.setattr(parquet, "PAUSE_SECONDS", 0.0)
    run = run_of(tmp_path / "first", gathered)
    before = written(run)
    lefts = left_by_kills(tmp_path / "first", lambda: analysis.gather(run))
    after = written(run)
    assert len(lefts) > 16
    for left in lefts[::every]:
        left.restore(tmp_path / "again")
        again = tmp_path / "again" / run.name
        told, there = reading(again), tables_of(written(again))
        assert ("gather" in told and "\n" not in told) or there in (tables_of(before), tables_of(after)), left.after
        analysis.gather(again)
        found = written(again)
        strays = found.keys() - after.keys()
        assert strays == parts(strays) and len(strays) <= 1, left.after
        assert all(found[path] == after[path] for path in after if not path.endswith(INDEX)), left.after
        analysis.load(again)


@pytest.mark.usefixtures("without_report")
def test_a_table_of_another_command_never_seems_damaged_by_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of `analysis barrier` and of a search."""
    monkeypatch.setattr(parquet, "PAUSE_SECONDS", 0.0)
    run = run_of(tmp_path / "first", gathered=False)
    store = Store(run.parent)
    write_noted(store, "run", "barriers", table("barriers", []))
    analysis.gather(run)
    blank: dict[Any, Any] = {pa.string(): "x", pa.int64(): 0, pa.float64(): 0.0, pa.bool_(): False}
    row = {field.name: blank.get(field.type, []) for field in TABLES["barriers"]}
    new = table("barriers", [{**row, "run": "run"}])
    found = set()
    for left in left_by_kills(tmp_path / "first", lambda: write_noted(Store(run.parent), "run", "barriers", new)):
        left.restore(tmp_path / "again")
        again = tmp_path / "again" / "run"
        analysis.gather(again)
        found.add(len(analysis.load(again).barriers))
        write_noted(Store(again.parent), "run", "barriers", new)
        assert len(analysis.load(again).barriers) == 1, left.after
    assert found == {0, 1}


# -- exclusions ------------------------------------------------------------------------------------------------------


def test_exclusions_are_the_old_or_the_new_ones(tmp_path: Path) -> None:
    run = run_of(tmp_path / "first", gathered=False)
    change_exclusions(run, exclude=[SPECS[0].name], reason="first")

    def exclude(run: Path) -> None:
        change_exclusions(run, exclude=[SPECS[1].name], reason="second")

    found = set()
    for left in left_by_kills(tmp_path / "first", lambda: exclude(run)):
        left.restore(tmp_path / "again")
        excluded = read_exclusions(Store(tmp_path / "again"), "run")
        found.add(len(excluded))
        exclude(tmp_path / "again" / "run")
        assert read_exclusions(Store(tmp_path / "again"), "run").keys() == {SPECS[0].name, SPECS[1].name}
    assert found == {1, 2}


# -- files for others ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("trained")
    specs = [TrialSpec(epochs=1, control="dense"), TrialSpec(epochs=1, target_sparsity_pct=36.0)]
    for spec in specs:
        run_trial(spec, Store(storage), "run")
    trials = [{"name": t.name, "key": t.key, "spec": t.spec.canonical()} for t in plan_of(specs).trials]
    Store(storage).write("run/plan.json", to_json(plan(specs, trials=trials)))
    return storage / "run"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def age(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (HOURS_AGO, HOURS_AGO))


def check_kills(folder: Path, operation: Callable[[Path], Any], name: str, spare: int = 1) -> None:
    """Kill an operation that makes `name` in a folder, at each step; the next one makes it, and clears away."""
    folder.mkdir(exist_ok=True)
    lefts = left_by_kills(folder, lambda: operation(folder))
    again, litter = folder.with_name("again"), set()
    for left in [*lefts[:4], *lefts[4::spare], lefts[-1]]:
        left.restore(again)
        operation(again)
        litter |= names_in(again) - {name}
        age(again)
        operation(again)
        assert names_in(again) == {name}, f"{left.after}: what a kill has left is cleared away once it is old"
        whole = {path: content for path, (content, _) in lefts[-1].files.items() if not path.endswith("/")}
        assert {
            path.relative_to(again).as_posix(): path.read_bytes() for path in again.rglob("*") if path.is_file()
        } == whole, left.after
        shutil.rmtree(again)
    assert litter, "some kills leave something"


@pytest.mark.usefixtures("without_report")
def test_an_archive_is_there_as_a_whole(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.export.archive.report_html", lambda *_: "")
    check_kills(tmp_path / "first", lambda folder: pack(trained, folder / "a.tar.gz"), "a.tar.gz", spare=20)


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "over an old one"])
def test_an_export_is_there_as_a_whole(tmp_path: Path, trained: Path, is_there: bool) -> None:
    name = TrialSpec(epochs=1, target_sparsity_pct=36.0).name

    def make(folder: Path) -> None:
        export([str(trained), name], folder)

    if is_there:
        make(tmp_path / "first")
    check_kills(tmp_path / "first", make, name, spare=3)


@pytest.mark.slow
def test_a_folder_for_the_hub_is_there_as_a_whole(tmp_path: Path, trained: Path) -> None:
    name = TrialSpec(epochs=1, target_sparsity_pct=36.0).name

    def make(folder: Path) -> None:
        export_to_hub([str(trained), name], folder / "hub")

    make(tmp_path / "first")
    check_kills(tmp_path / "first", make, "hub", spare=5)


def test_a_saved_ticket_is_there_as_a_whole(tmp_path: Path) -> None:
    ticket = Ticket(masks={}, provenance={"a": 1}, initial={"w": torch.ones(3)}, rewind={}, final={})
    check_kills(tmp_path / "first", lambda folder: save_ticket(ticket, folder / "ticket"), "ticket")
    save_ticket(ticket, tmp_path / "t")
    assert load_ticket(tmp_path / "t").provenance == {"a": 1}


def test_decoded_images_are_cached_as_a_whole(tmp_path: Path) -> None:
    import numpy as np

    check_kills(tmp_path / "first", lambda folder: _keep(folder / "images.npy", np.zeros(9, np.uint8)), "images.npy")
