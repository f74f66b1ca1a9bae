from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs

from lth_trainable.errors import UserError
from lth_trainable.spec.values import digest
from lth_trainable.store.store import MANIFEST, Damaged, Store
from lth_trainable.store.trials import open_run

FILES = {"a.bin": b"abc", "b.bin": b"\x00" * 1000}


def test_a_sealed_folder_comes_back(store: Store) -> None:
    store.seal("r/trials/t", FILES, {"kind": "trial", "key": "k"})
    folder = store.find("r/trials/t")
    assert folder is not None and folder.manifest["key"] == "k"
    assert {name: store.content(folder, name) for name in FILES} == FILES
    assert store.folders("r/trials") == ["t"] and store.folders("nowhere") == []


def test_a_folder_without_a_manifest_does_not_exist(store: Store) -> None:
    store.write("r/trials/t/a.bin", b"abc")
    assert store.find("r/trials/t") is None and store.find("nowhere") is None


def test_a_write_that_fails_leaves_nothing_behind(store: Store) -> None:
    """On a full disk the part that was written would keep it full."""
    store.write("t/folder/file", b"abc")
    with pytest.raises(UserError, match="found a folder; expected a file"):
        store.write("t/folder", b"abc")
    assert [path.name for path in Path(store.root).rglob("*")] == ["t", "folder", "file"]


def test_the_manifest_is_written_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Store.write

    def dies(self: Store, path: str, content: bytes) -> None:
        if path.endswith("b.bin"):
            raise OSError("disk full")
        write(self, path, content)

    monkeypatch.setattr(Store, "write", dies)
    with pytest.raises(OSError, match="disk full"):
        store.seal("t", FILES, {})
    assert store.find("t") is None
    monkeypatch.undo()
    store.write("t/leftover.bin", b"old")
    store.seal("t", FILES, {})
    assert store.find("t") is not None and not store.exists("t/leftover.bin")


def test_half_written_files_never_show(store: Store, tmp_path: Path) -> None:
    store.write("t/x.bin", b"new")
    assert [p.name for p in (tmp_path / "runs" / "t").iterdir()] == ["x.bin"]


@pytest.mark.parametrize(
    "damage",
    ["truncated", "missing", "altered", "manifest cut", "manifest of nonsense", "manifest altered", "manifest of none"],
)
def test_damage_is_named_and_can_be_set_aside(store: Store, tmp_path: Path, damage: str) -> None:
    store.seal("r/trials/t", FILES, {"key": "k"})
    folder = tmp_path / "runs" / "r" / "trials" / "t"
    target = folder / ("b.bin" if "manifest" not in damage else MANIFEST)
    if damage == "missing":
        target.unlink()
    else:
        content = {"truncated": b"\x00" * 10, "altered": b"\x01" * 1000, "manifest cut": target.read_bytes()[:40],
                   "manifest of nonsense": b"[]", "manifest of none": b'{"format": 1, "files": {}}',
                   "manifest altered": target.read_bytes().replace(b'"k"', b'"j"')}[damage]  # fmt: skip
        target.write_bytes(content)
    with pytest.raises(Damaged, match=target.name) as caught:
        sealed = store.find("r/trials/t")
        assert sealed is not None
        store.content(sealed, "b.bin")
    aside = store.quarantine(caught.value, "r")
    assert store.find("r/trials/t") is None and not folder.exists()
    assert target.name in store.read(f"{aside}/reason.txt").decode()


def test_sealing_what_is_there_changes_nothing_and_other_content_replaces_it_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.seal("t", FILES, {"key": "k"})
    monkeypatch.setattr(Store, "write", lambda *_: pytest.fail("nothing is to be written"))
    store.seal("t", FILES, {"key": "k"})
    monkeypatch.undo()
    write = Store.write

    def dies(self: Store, path: str, content: bytes) -> None:
        write(self, path, content)
        raise OSError("disk full")

    monkeypatch.setattr(Store, "write", dies)
    with pytest.raises(OSError, match="disk full"):
        store.seal("t", {"a.bin": b"other"}, {"key": "k"})
    monkeypatch.undo()
    assert store.find("t") is None, "the old manifest does not stand over the new files"


def test_many_writers_of_the_same_folder_do_not_harm_each_other(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(40):
            list(pool.map(lambda _, n=number: store.seal(f"states/{n}", FILES, {"key": "k"}), range(4)))
    for number in range(40):
        folder = store.find(f"states/{number}")
        assert folder is not None and store.content(folder, "b.bin") == FILES["b.bin"]


def test_many_that_find_the_same_damage_set_it_aside_once(store: Store) -> None:
    for number in range(20):
        path = f"states/{number}"
        store.seal_shared(path, FILES, {"key": "k"})
        damage = Damaged(path, "altered")
        with ThreadPoolExecutor(4) as pool:
            aside = list(pool.map(lambda _, d=damage: store.quarantine(d, "states"), range(4)))
        assert store.folders("states").count(str(number)) == 0
        assert sorted(len(store.sizes(folder)) for folder in aside) == [1, 1, 1, 4], "one has it, all have the reason"


def test_a_manifest_of_an_earlier_version_has_no_sum_of_its_own(store: Store) -> None:
    manifest = dict(store.seal("t", FILES, {"key": "k"}).manifest)
    del manifest["sha256"]
    store.write(f"t/{MANIFEST}", json.dumps(manifest).encode())
    folder = store.find("t")
    assert folder is not None and folder.manifest["key"] == "k"


def test_another_format_is_refused(store: Store) -> None:
    store.seal("t", FILES, {})
    manifest = {**json.loads(store.read(f"t/{MANIFEST}")), "format": 99}
    del manifest["sha256"]
    store.write(f"t/{MANIFEST}", json.dumps({**manifest, "sha256": digest(manifest)}).encode())
    with pytest.raises(UserError, match="format 99"):
        store.find("t")


def test_states_of_different_fingerprints_do_not_mix(store: Store) -> None:
    assert store.state("k", {"threads": 1}) != store.state("k", {"threads": 2})
    assert store.state("k", {"a": 1, "b": 2}) == store.state("k", {"b": 2, "a": 1})


def test_the_path_of_a_run_gives_its_storage(tmp_path: Path) -> None:
    store, run = open_run(tmp_path / "digits")
    assert (store.root, run) == (str(tmp_path), "digits")
    assert open_run("digits")[0].root == str(Path.cwd())
    assert open_run("runs/digits/")[1] == "digits"


@pytest.mark.parametrize("local", [True, False], ids=["a look at each", "one listing"])
def test_which_of_some_folders_are_there(store: Store, local: bool) -> None:
    for name in ("a", "b", "c"):
        store.write(f"states/{name}/file", b"")
    store.write("states/d", b"a file")
    if not local:
        store.fs = fs.SubTreeFileSystem("/", fs.LocalFileSystem())
    assert store.present("states", ["a", "c", "d", "e"]) == {"a", "c"}
    assert store.present("nowhere", ["a"]) == store.present("states", []) == set()
