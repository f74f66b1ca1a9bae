"""Every write of the store, killed after each of its steps: the next start finds the old content, the new, or none.

`tests/support/crash_points.py` makes what a kill leaves. `tests/sweeps/runs/test_crash_matrix.py` and
`tests/analysis/test_crash_matrix.py` do the same with what a run and its analysis write.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.failures import Note
from lth_trainable.store.store import MANIFEST, STATES, Damaged, Store
from lth_trainable.store.trials import read_failure
from lth_trainable.training.run import Keep, run_trial
from tests.support.crash_points import Left, left_by_kills, objects_left_by_kills, parts
from tests.support.runs import plan_of
from tests.support.s3 import s3_server, storage

OLD = {"a.bin": b"old" * 9, "only-old.bin": b"old"}
NEW = {"a.bin": b"new" * 9, "b.bin": b"new content of b"}
ABOUT = {"kind": "trial", "key": "k"}
AT = "r/trials/t"
Operation = Callable[[Store], Any]


def seal_old(store: Store) -> None:
    store.seal(AT, OLD, ABOUT)


def share_old(store: Store) -> None:
    store.seal_shared(AT, OLD, ABOUT)


def cut(store: Store) -> None:
    """A folder that is sealed and damaged."""
    seal_old(store)
    store.write(f"{AT}/a.bin", b"cut")


def set_aside(store: Store) -> None:
    """What every reader of a damaged folder does."""
    try:
        store.find(AT)
    except Damaged as damage:
        store.quarantine(damage, "r")


OPERATIONS: dict[str, tuple[Operation | None, Operation]] = {  # what was there before; what is killed
    "a file": (None, lambda store: store.write(AT, b"new" * 9)),
    "a file over another": (lambda store: store.write(AT, b"old" * 9), lambda store: store.write(AT, b"new" * 9)),
    "delete a file": (lambda store: store.write(AT, b"old" * 9), lambda store: store.delete(AT)),
    "seal": (None, lambda store: store.seal(AT, NEW, ABOUT)),
    "seal over another": (seal_old, lambda store: store.seal(AT, NEW, ABOUT)),
    "seal over a damaged one": (cut, lambda store: store.seal(AT, OLD, ABOUT)),
    "seal shared": (None, lambda store: store.seal_shared(AT, NEW, ABOUT)),
    "seal shared over another": (share_old, lambda store: store.seal_shared(AT, NEW, ABOUT)),
    "set aside and seal anew": (cut, lambda store: (set_aside(store), store.seal(AT, NEW, ABOUT))),
    "delete a folder": (seal_old, lambda store: store.delete_folder(AT)),
}
OVER_A_DAMAGED_ONE = ("seal over a damaged one", "set aside and seal anew")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("boto3", reason="for the test extra")
    pytest.importorskip("moto.server", reason="for the test extra")
    with s3_server() as address:
        yield address


class Place:
    """Makes stores from what kills leave: in a folder, or in a bucket if there is a server of one."""

    def __init__(self, folder: Path, server: str | None = None) -> None:
        self.folder, self.server, self._numbers = folder, server, itertools.count()

    def new(self, left: Left | None = None) -> tuple[str, Store]:
        """A new store with what is left, and the name of its place."""
        name = f"{self.folder.name}-{next(self._numbers)}"
        if self.server is not None:
            if left is not None:
                left.put(name)
            return name, Store(storage(self.server, name))
        if left is not None:
            left.restore(self.folder / name)
        return name, Store(self.folder / name)

    def left_by_kills(self, before: Operation | None, operation: Operation) -> list[Left]:
        name, store = self.new()
        if before is not None:
            before(store)
        if self.server is None:
            Path(store.root).mkdir(exist_ok=True)
            return left_by_kills(Path(store.root), lambda: operation(Store(store.as_typed)))
        return objects_left_by_kills(name, lambda: operation(Store(store.as_typed)))


@pytest.fixture(params=["a folder", "S3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, request.getfixturevalue("server") if request.param == "S3" else None)


def contents(store: Store) -> dict[str, bytes]:
    """All files of a store by their path; what is set aside has random names, so it is left out."""
    files = (info.path[len(store.root) + 1 :] for info in store.walk("") if info.is_file)
    return {path: store.read(path) for path in files if "quarantine" not in path}


def whole(store: Store) -> dict[str, bytes] | None:
    """What a reader finds in the sealed folder."""
    folder = store.find(AT)
    return None if folder is None else {name: store.content(folder, name) for name in folder.manifest["files"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_after_a_kill_at_any_step_nothing_is_torn_and_the_same_again_ends_as_if_undisturbed(
    place: Place, name: str
) -> None:
    before, operation = OPERATIONS[name]
    lefts = place.left_by_kills(before, operation)
    undisturbed = contents(place.new(lefts[-1])[1])
    assert not parts(undisturbed) and len(lefts) > 1
    seen = set()
    for left in lefts:
        _, store = place.new(left)
        if "file" in name:
            content = store.read(AT) if store.exists(AT) else None
            assert content in (None, b"old" * 9, b"new" * 9), left.after
            seen.add(content)
        elif name not in OVER_A_DAMAGED_ONE:
            found = whole(store)
            assert found in (None, OLD, NEW), left.after
            seen.add(None if found is None else found["a.bin"])
        operation(store)
        after = contents(store)
        strays = after.keys() - undisturbed.keys()
        assert {path: after[path] for path in after.keys() - strays} == undisturbed, left.after
        assert strays == parts(strays), left.after
        assert len(strays) <= 1 and strays <= left.files.keys(), "a kill leaves at most the file that was being written"
        assert place.server is None or not strays, "an object is there as a whole or not at all"
    assert len(seen) > 1 or name in OVER_A_DAMAGED_ONE, "the kills were before and after the operation took effect"


def test_a_kill_while_a_folder_is_set_aside_loses_nothing_of_it(place: Place) -> None:
    for left in place.left_by_kills(cut, set_aside):
        _, store = place.new(left)
        set_aside(store)
        assert store.find(AT) is None
        aside = {info.base_name for info in store.walk("r/quarantine") if info.is_file}
        assert aside >= {"a.bin", "only-old.bin", MANIFEST}, left.after


def test_a_note_of_a_failure_is_there_or_not(tmp_path: Path) -> None:
    place = Place(tmp_path)
    note = {"path": AT, "launch": "l"}

    def leave(store: Store) -> None:
        Note(storage=store.as_typed, **note).leave("it broke", "Traceback", is_last=True)

    for left in place.left_by_kills(None, leave):
        _, store = place.new(left)
        failure = read_failure(store, AT)
        assert failure is None or failure.reason == "it broke", left.after


# -- a whole trial ---------------------------------------------------------------------------------------------------

TRIAL = TrialSpec(target_sparsity_pct=36.0, epochs=2, rewind_epoch=1)


def train(store: Store) -> dict[str, Any]:
    [planned] = plan_of([TRIAL]).trials
    return run_trial(TRIAL, store, "r", keep=Keep(states=plan_of([TRIAL]).keep(planned)))


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_trial_killed_at_any_of_its_writes_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """Every epoch is stored in a temporary state, so these are killed too. In `make test`: one kill of nine."""
    monkeypatch.setattr("lth_trainable.training.lifecycle.RESUME_SECONDS", 0.0)
    place = Place(tmp_path)
    lefts = place.left_by_kills(None, train)
    reference = train(place.new(lefts[-1])[1])["sha256"]
    assert any("-passing-" in path for left in lefts for path in left.files)
    for left in lefts[::every]:
        _, store = place.new(left)
        assert train(store)["sha256"] == reference, left.after
        assert not store.names(f"{STATES}/quarantine"), f"nothing was torn: {left.after}"
