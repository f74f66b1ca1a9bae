"""What a run writes beside its trials, killed after each step: the next command finds it as it was, or as a whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sweeps.runs.lock
from analysis.tables.run_plan import TERMS, read_plan
from lth_trainable.errors import UserError
from lth_trainable.store.store import PLAN, STATES, Store
from sweeps.experiments.recipes import digits
from sweeps.planning.plan import Facts
from sweeps.runs.damaged import read_damaged, write_damaged
from sweeps.runs.ledger import Ledger
from sweeps.runs.lock import RunLock
from sweeps.storage import check, gc
from tests.support.crash_points import Left, left_by_kills, parts
from tests.support.runs import DENSE, LADDER, plan_of, sweep

SPECS = [DENSE, *LADDER]
RULE = digits()
HOURS_AGO = time.time() - 7200


def ledger(store: Store, specs: Any = SPECS) -> Ledger:
    plan = plan_of(specs)
    facts = {(trial.spec.dataset, trial.spec.split_seed): Facts(digest="d", n_train=10) for trial in plan.trials}
    return Ledger(store=store, run="a", plan=plan, facts=facts)


def kills(tmp_path: Path, before: Callable[[Store], Any] | None, operation: Callable[[Store], Any]) -> list[Left]:
    folder = tmp_path / "first"
    folder.mkdir()
    if before is not None:
        before(Store(folder))
    return left_by_kills(folder, lambda: operation(Store(folder)))


def restored(left: Left, tmp_path: Path) -> Store:
    left.restore(tmp_path / "again")
    return Store(tmp_path / "again")


# -- plan and terms --------------------------------------------------------------------------------------------------


def plan_first(store: Store) -> None:
    ledger(store, SPECS[:2]).write_plan(RULE, ["first"])


def plan_more(store: Store) -> None:
    ledger(store).write_plan(RULE, ["second"])


@pytest.mark.parametrize("before", [None, plan_first])
def test_a_plan_is_the_old_or_the_new_one_and_its_terms_stay(tmp_path: Path, before: Any) -> None:
    operation, sizes = plan_first if before is None else plan_more, set()
    lefts = kills(tmp_path, before, operation)
    for left in lefts:
        store = restored(left, tmp_path)
        if store.exists(f"a/{PLAN}"):
            plan = read_plan(store, "a")
            sizes.add(len(plan.trials))
            assert plan.rule.margin_pp == RULE.margin_pp
            with pytest.raises(UserError, match="as it was fixed before the first"):
                ledger(store).write_plan(replace(RULE, margin_pp=9.0), ["other"])
        operation(store)
        expected = lefts[-1].files
        assert {name: store.read(f"a/{name}") for name in (PLAN, TERMS)} == {
            name: expected[f"a/{name}"][0] for name in (PLAN, TERMS)
        }, left.after
    assert sizes == ({2} if before is None else {2, 3})


def test_a_run_that_is_tried_for_writing_is_tried_again(tmp_path: Path) -> None:
    for left in kills(tmp_path, None, lambda store: ledger(store).check_writable()):
        store = restored(left, tmp_path)
        ledger(store).check_writable()
        assert store.names("a") == {Path(path).name for path in parts(left.files)}, left.after


# -- the lock --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.runs.lock, "SETTLING_SECONDS", 0.0)


def test_the_lock_of_a_killed_driver_is_no_lock(
    tmp_path: Path, quick_lock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(store: Store) -> None:
        with RunLock(store, "a", lambda: {"trial": {"epochs": 1}}) as lock:
            lock._write()  # a heartbeat

    with monkeypatch.context() as patch:  # of a process that is not this one
        patch.setattr(sweeps.runs.lock, "_born", lambda pid: "long ago")
        lefts = kills(tmp_path, None, hold)
    assert any("a/driver.json" in left.files for left in lefts)
    for left in lefts:
        store = restored(left, tmp_path)
        hold(store)
        assert store.names("a") == {Path(path).name for path in parts(left.files)}, left.after


# -- damage ----------------------------------------------------------------------------------------------------------

STATE = f"{STATES}/{'e' * 64}/{'0' * 12}"


@pytest.mark.parametrize("paths", [[STATE], []], ids=["noted", "removed"])
def test_the_note_of_damage_is_there_or_not(tmp_path: Path, paths: list[str]) -> None:
    before = (lambda store: write_damaged(store, [STATE])) if not paths else None
    for left in kills(tmp_path, before, lambda store: write_damaged(store, paths)):
        store = restored(left, tmp_path)
        assert read_damaged(store) in (set(), {STATE}), left.after
        write_damaged(store, paths)
        assert read_damaged(store) == set(paths)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A finished run, as something to restore."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    folder.mkdir()
    sweep(Store(folder), "a", SPECS)
    [left] = left_by_kills(folder, lambda: None)
    return left


def rerun(store: Store) -> None:
    """What the same command does, without Ray."""
    book = ledger(store)
    done = book.take_stock(repair=True).done
    sweep(store, "a", [trial.spec for trial in book.plan.trials if trial.name not in done])
    sweep(store, "a", SPECS)


def test_a_repair_that_is_killed_is_repaired(tmp_path: Path, trained: Left) -> None:
    """A damaged state and a damaged trial are set aside: after each kill, nothing is lost and the rerun heals all."""

    def damage(store: Store) -> None:
        trained.restore(Path(store.root))
        paths = [path for path in trained.files if "weights" in path or path.endswith("record.json")]
        for path in (paths[0], next(path for path in paths if "record" in path)):
            raw = bytearray(trained.files[path][0])
            raw[len(raw) // 2] ^= 1
            store.write(path, bytes(raw))

    lefts = kills(tmp_path, damage, lambda store: ledger(store).take_stock(repair=True))
    assert len(lefts) > 4
    for left in lefts:
        store = restored(left, tmp_path)
        rerun(store)
        assert not check(store)["damaged"], left.after
        for name in {
            path.split("/")[2] for path in trained.files if path.startswith("a/trials/") and path.count("/") > 2
        }:
            ours, theirs = (
                json.loads(raw)["sha256"]
                for raw in (
                    store.read(f"a/trials/{name}/record.json"),
                    trained.files[f"a/trials/{name}/record.json"][0],
                )
            )
            assert ours == theirs, left.after


# -- gc --------------------------------------------------------------------------------------------------------------


def age(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (HOURS_AGO, HOURS_AGO))


def test_gc_that_is_killed_deletes_nothing_that_is_needed_and_goes_on(tmp_path: Path, trained: Left) -> None:
    junk = [f"{STATES}/{'f' * 64}/{'0' * 12}", f"{STATES}/{'e' * 64}/{'1' * 12}"]

    def litter(store: Store) -> None:
        trained.restore(Path(store.root))
        for folder in junk:
            store.seal_shared(folder, {"weights.safetensors": b"junk"}, {"kind": "state", "key": "k", "complete": True})
        age(Path(store.root))

    needed = {path for path in trained.files if not path.endswith("/")}
    for left in kills(tmp_path, litter, gc):
        store = restored(left, tmp_path)
        age(Path(store.root))
        assert not check(store)["damaged"], left.after
        gc(store)
        files = {info.path[len(store.root) + 1 :] for info in store.walk("") if info.is_file}
        assert files == needed, left.after


def test_gc_deletes_what_kills_have_left_unfinished_once_it_is_old(tmp_path: Path, trained: Left) -> None:
    trained.restore(tmp_path)
    store = Store(tmp_path)
    unfinished = [
        f"a/{PLAN}.0123abcd.part", "a/driver.json.0123abcd.part", "a/analysis/epochs.parquet.0123abcd.part",
        f"a/trials/{DENSE.name}/record.json.0123abcd.part", f"{STATES}/damaged.json.0123abcd.part",
    ]  # fmt: skip
    kept = ["a/notes.part", "a/ray/x.0123abcd.part", "elsewhere/x.0123abcd.part", "a/quarantine/t-1/x.0123abcd.part"]
    for path in (*unfinished, *kept):
        store.write(path, b"half")
    assert gc(store) == [], "somebody may still be writing them"
    for path in (*unfinished, *kept):
        os.utime(tmp_path / path, (HOURS_AGO, HOURS_AGO))
    found = gc(store, dry_run=True)
    assert sorted(item.path for item in found) == sorted(unfinished) and all(item.bytes == 4 for item in found)
    assert gc(store) == found and gc(store) == []
    assert all(store.exists(path) for path in kept) and not any(store.exists(path) for path in unfinished)


def test_a_run_of_an_earlier_version_keeps_its_alpha(tmp_path: Path) -> None:
    """0.4.0 fixed 0.05; today's default does not change that, and does not stop the run from going on."""
    store = Store(tmp_path)
    ledger(store, SPECS[:2]).write_plan(replace(RULE, alpha=0.05), ["by 0.4.0"])
    ledger(store).write_plan(RULE, ["by this version"])
    assert RULE.alpha == 0.025 and read_plan(store, "a").rule.alpha == 0.05
    with pytest.raises(UserError, match=r"alpha: found 0\.01"):
        ledger(store).write_plan(replace(RULE, alpha=0.01), ["another"])


def test_a_run_of_an_earlier_version_keeps_its_margin(tmp_path: Path) -> None:
    """0.4.0 had 1 pp in the recipe digits; the same command goes on with what was fixed, and no other margin does."""
    store, digits = Store(tmp_path), replace(RULE, name="digits", margin_pp=2.0)
    ledger(store, SPECS[:2]).write_plan(replace(digits, alpha=0.05, margin_pp=1.0), ["by 0.4.0"])
    ledger(store).write_plan(digits, ["by this version"])
    assert read_plan(store, "a").rule.margin_pp == 1.0 and read_plan(store, "a").rule.alpha == 0.05
    another = Store(tmp_path / "another")
    ledger(another, SPECS[:2]).write_plan(replace(digits, margin_pp=0.5), ["another"])
    with pytest.raises(UserError, match=r"margin_pp: found 2\.0; expected 0\.5"):
        ledger(another).write_plan(digits, ["by this version"])
