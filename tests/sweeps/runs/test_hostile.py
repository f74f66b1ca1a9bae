"""A storage that is damaged, or made by somebody else: nothing outside it changes, nothing hangs, a rerun heals it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis.export.archive import pack
from analysis.tables.run_plan import read_content, write_content
from lth_trainable.errors import UserError
from lth_trainable.spec.values import digest
from lth_trainable.store.json_files import object_from_json
from lth_trainable.store.store import MANIFEST, PLAN, STATES, Damaged, Store
from lth_trainable.training.run import Keep, run_trial
from sweeps.planning.plan import Plan
from sweeps.runs.inventory import take_inventory
from sweeps.runs.ledger import Ledger
from sweeps.runs.lock import DRIVER, read_driver
from sweeps.runs.survey import read_survey
from sweeps.storage import check, gc
from tests.support.runs import DENSE, LADDER, plan_of, sweep

SPECS = [DENSE, *LADDER]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "runs"
    sweep(Store(root), "a", SPECS)
    return root


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    """A copy of the trained storage, beside a folder that nobody may touch."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / MANIFEST).write_text("{}")
    (outside / "canary").write_text("alive")
    shutil.copytree(trained, tmp_path / "runs")
    return Store(tmp_path / "runs")


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, store: Store) -> Any:
    yield
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["canary", MANIFEST]
    assert (tmp_path / "outside" / "canary").read_text() == "alive"


def ledger_of(store: Store, plan: Plan | None = None) -> Ledger:
    return Ledger(store=store, run="a", plan=plan or plan_of(SPECS), facts={})


def rerun(store: Store) -> tuple[str, ...]:
    """What the same command does, without Ray: set damage aside, train what is missing. Returns the reports."""
    ledger = ledger_of(store)
    stock = ledger.take_stock(repair=True)
    for trial in ledger.plan.trials:
        if trial.name not in stock.done:
            run_trial(trial.spec, store, "a", keep=Keep(states=ledger.plan.keep(trial)))
    return stock.reports


def sealed_states(store: Store) -> list[str]:
    return sorted(folder for folder, files in take_inventory(store).states.items() if MANIFEST in files)


def reseal(store: Store, folder: str, **changes: Any) -> None:
    """Change a manifest and its own checksum with it, as somebody would who means harm."""
    content = {**json.loads(store.read(f"{folder}/{MANIFEST}")), **changes}
    content.pop("sha256")
    store.write(f"{folder}/{MANIFEST}", json.dumps({**content, "sha256": digest(content)}).encode())


# -- names in files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../outside/canary", "a/../../outside/canary", "/etc/hostname", "a//b", "./a", "a/\0"]
)
def test_no_path_leads_out_of_a_storage(store: Store, path: str) -> None:
    for action in (store.read, store.delete, store.delete_folder, store.exists, lambda p: store.write(p, b"x")):
        with pytest.raises(UserError, match="expected names below the storage"):
            action(path)


@pytest.mark.parametrize("name", ["../../../outside/canary", "/etc/hostname", "..", "", "a\x1b[2J", "x" * 300])
def test_a_manifest_that_names_a_foreign_file_is_damaged(store: Store, name: str) -> None:
    folder = store.trial("a", DENSE.name)
    entry = {"size": 5, "sha256": "0" * 64}
    for files in ({name: entry}, {"record.json": {**entry, "file": name}}):
        reseal(store, folder, files=files)
        with pytest.raises(Damaged, match="is not the name of a file"):
            store.find(folder)
    assert folder in {damage["path"] for damage in check(store)["damaged"]}
    assert any(DENSE.name in report for report in rerun(store)) and not check(store)["damaged"]


@pytest.mark.parametrize("state", ["../outside", "states/../../outside", "a/trials", 7, None])
def test_a_record_that_refers_to_a_foreign_folder_is_damaged_and_nothing_is_moved(store: Store, state: Any) -> None:
    reseal(store, store.trial("a", DENSE.name), states={"initial": state, "final": state})
    assert any(DENSE.name in report for report in rerun(store)) and not check(store)["damaged"]
    gc(store)


@pytest.mark.parametrize("name", ["../../outside", "", "a/b", 3])
def test_a_plan_that_names_a_foreign_trial_is_refused(store: Store, tmp_path: Path, name: Any) -> None:
    content = read_content(store, "a")
    content["trials"][0]["name"] = name
    write_content(store, "a", content)
    for action in (read_content, gc_and_check):
        with pytest.raises(UserError, match="expected the name of a folder"):
            action(store, "a")
    with pytest.raises(UserError, match="expected the name of a folder"):
        pack(tmp_path / "runs" / "a", tmp_path / "a.tar.gz")


def gc_and_check(store: Store, _: str) -> None:
    assert check(store)["damaged"]
    gc(store)


# -- links and what else may be in the place of files -----------------------------------------------------------------


def test_behind_a_link_nothing_is_deleted_moved_or_written(store: Store, tmp_path: Path) -> None:
    key = sealed_states(store)[0].split("/")[1]
    link = Path(store.root, STATES, "e" * 64)
    link.symlink_to(tmp_path / "outside")
    inner = Path(store.root, STATES, "d" * 64, "0" * 12)
    inner.parent.mkdir()
    inner.symlink_to(tmp_path / "outside")
    with pytest.raises(Damaged, match="symbolic link"):
        store.find(f"{STATES}/{'d' * 64}/{'0' * 12}")
    for path in (f"{STATES}/{'e' * 64}/canary", f"{STATES}/{'d' * 64}/{'0' * 12}/canary"):
        with pytest.raises(UserError, match="found a symbolic link; expected a folder"):
            store.delete(path)
        with pytest.raises(UserError, match="found a symbolic link; expected a folder"):
            store.write(path, b"x")
    gc(store)
    assert not link.is_symlink() and not inner.is_symlink(), "the links are gone, not what they lead to"
    assert store.exists(f"{STATES}/{key}")


def test_a_state_that_is_a_link_is_set_aside_as_a_link(store: Store, tmp_path: Path) -> None:
    folder = Path(store.root, sealed_states(store)[0])
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "outside")
    assert check(store)["damaged"]
    assert rerun(store) and not check(store)["damaged"]


def test_a_storage_may_itself_be_a_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.root)
    linked = Store(tmp_path / "link")
    linked.write("a/probe", b"x")
    linked.delete("a/probe")
    assert not check(linked)["damaged"]


@pytest.mark.parametrize("what", ["pipe", "folder", "nothing in it", "deep", "NaN", "text", "not UTF-8"])
@pytest.mark.parametrize("file", [MANIFEST, PLAN, DRIVER])
def test_whatever_is_in_place_of_a_file_is_one_line_or_heals(store: Store, file: str, what: str) -> None:
    path = Path(store.root, "a", "trials", DENSE.name, file) if file == MANIFEST else Path(store.root, "a", file)
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        (path / "x").mkdir(parents=True)
    else:
        deep = b"[" * 100_000 + b"]" * 100_000
        contents = {
            "nothing in it": b"",
            "deep": deep,
            "NaN": b'{"a": NaN}',
            "text": b'"text"',
            "not UTF-8": b"\xff\xfe",
        }
        path.write_bytes(contents[what])
    if file == DRIVER:
        assert read_driver(store, "a") is None and read_survey(str(path.parent)).driver is None
    elif file == PLAN:
        for read in (lambda: read_content(store, "a"), lambda: read_survey(str(path.parent)), lambda: gc(store)):
            with pytest.raises(UserError, match="not readable as a plan") as error:
                read()
            assert "\n" not in str(error.value)
    else:
        assert store.trial("a", DENSE.name) in {damage["path"] for damage in check(store)["damaged"]}
        assert rerun(store) and not check(store)["damaged"]


# -- what check finds, a rerun repairs --------------------------------------------------------------------------------


def test_every_damaged_file_of_a_finished_run_is_found_and_repaired_by_a_rerun(store: Store) -> None:
    """Weights, training, masks and history of every state, and the files of a trial: one at a time."""
    folders = [*sealed_states(store), store.trial("a", LADDER[-1].name)]
    damaged = 0
    for folder in folders:
        for path in sorted(Path(store.root, folder).glob("*")):
            if not path.exists():  # a rerun has written it under another name
                continue
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
            assert [damage["path"] for damage in check(store)["damaged"]][:1] == [folder], path
            assert any(folder in report for report in rerun(store)), path
            assert not check(store)["damaged"], path
            damaged += 1
    assert damaged > 20
    assert object_from_json(store.read(f"a/trials/{DENSE.name}/record.json"))["status"] == "done"
