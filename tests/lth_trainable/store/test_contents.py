"""Records, histories and tensors with right checksums and wrong content: they are damaged, and say where."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.contents import read_record
from lth_trainable.store.json_files import NotJson, from_json
from lth_trainable.store.local_files import FOLDER, check_own
from lth_trainable.store.store import MASKS, RECORD, Damaged, Sealed, Store, to_json
from lth_trainable.store.tensor_files import arrays_of, bits_of, check_like, levels_of
from tests.support.records import record

SPEC = TrialSpec(target_sparsity_pct=64.0)


def sealed(store: Store, name: str, content: bytes) -> Sealed:
    return store.seal("run/trials/t", {name: content}, {"states": {}})


def test_a_record_as_it_is_written_is_read(store: Store) -> None:
    written = record(SPEC, 0.9)
    assert read_record(store, sealed(store, RECORD, to_json(written))) == written


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 0}, "format 0"),
        ({"format": "2"}, "format '2'"),
        ({"epochs": "none"}, "epochs is 'none', not a list"),
        ({"epochs": [1]}, "rows that are not objects"),
        ({"layers": [{"level": 0, "layer": "a", "n_weights": 0, "n_kept": 0}]}, "n_weights is 0"),
        ({"layers": [{"level": True, "layer": "a", "n_weights": 1, "n_kept": 0}]}, "level is True"),
        ({"layers": [{"layer": "a", "n_weights": 1, "n_kept": 0}]}, "a row without level"),
        ({"result": None}, "result is None, not an object"),
        ({"data": {"digest": "d"}}, "data has no entry shape"),
        ({"shapes": {"a": 3}}, "shapes.a is 3, not a list"),
        ({"fingerprint": {"device": 3, "threads": 1}}, "fingerprint.device is 3"),
        ({"spec": {"epochs": []}}, "epochs: found"),
        ({"spec": "none"}, "trial spec: found 'none'"),
        ({"reason": {"a": 1}}, "reason is"),
        ({"status": None}, "status is None"),
        ({"right": {"test": 3}}, "right.test is 3"),
        ({"right": {"test": "AAA"}}, "right.test: it is not base64"),
        ({"right": {"test": "AAAA"}}, "right.test: found 3 bytes for 360 images, expected 45"),
    ],
)  # fmt: skip
def test_a_record_with_other_content_is_damaged_in_one_line(store: Store, changes: dict[str, Any], told: str) -> None:
    folder = sealed(store, RECORD, to_json({**record(SPEC, 0.9), **changes}))
    with pytest.raises(Damaged, match=told) as caught:
        read_record(store, folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_record_of_a_later_version_is_refused_and_not_set_aside(store: Store) -> None:
    folder = sealed(store, RECORD, to_json({**record(SPEC, 0.9), "format": 2}))
    with pytest.raises(UserError, match="is written in format 2; this version reads 1"):
        read_record(store, folder)


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, "0.9", True])
def test_an_accuracy_is_a_number_from_0_to_1(store: Store, accuracy: Any) -> None:
    content = record(SPEC, 0.9)
    content["result"]["test_accuracy"] = accuracy
    with pytest.raises(Damaged, match=r"result\.test_accuracy is"):
        read_record(store, sealed(store, RECORD, to_json(content)))


@pytest.mark.parametrize("name", ["1", "x/1.weight", "/1.weight", "1234567/1.weight", "-1/1.weight"])
def test_masks_have_a_level_and_a_parameter(store: Store, name: str) -> None:
    folder = sealed(store, MASKS, save({name: np.zeros(1, np.uint8)}))
    with pytest.raises(Damaged, match="no bit-packed mask of a level"):
        bits_of(store, folder)


def test_tensors_that_do_not_fit_are_damaged(store: Store) -> None:
    folder = sealed(store, MASKS, save({"1/a": np.zeros(1, np.uint8)}))
    assert list(levels_of(store, folder, {"a": [2, 3]})) == [1]
    for shapes in ({}, {"a": [200]}, {"a": None}):
        with pytest.raises(Damaged, match="is not as this version writes it"):
            levels_of(store, folder, shapes)
    with pytest.raises(Damaged, match="unreadable"):
        arrays_of(store, sealed(store, MASKS, b"nonsense"), MASKS)
    with pytest.raises(Damaged, match="of shape None"):
        check_like(folder, MASKS, {}, {"a": np.zeros(2)})


@pytest.mark.parametrize("raw", [b'{"a": "\\ud800"}', b"[9223372036854775808]", b"[-9223372036854775809]"])
def test_json_that_other_programs_cannot_hold_is_refused(raw: bytes) -> None:
    with pytest.raises(NotJson):
        from_json(raw)


def test_whole_numbers_of_64_bits_and_pairs_of_surrogates_are_read() -> None:
    assert from_json(b'[9223372036854775807, "\\ud83d\\ude00"]') == [(1 << 63) - 1, "\U0001f600"]


@pytest.mark.parametrize("changes", [{"epochs": "1"}, {"epochs": True}, {"lr": []}, {"dataset": {}}, {"seed": 1.5}])
def test_a_spec_has_the_types_of_its_fields(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"trial spec, {next(iter(changes))}: found"):
        spec_from_dict({**SPEC.canonical(), **changes})


def test_a_library_writes_only_into_the_storage(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    root = str(tmp_path / "runs")
    check_own(root, "a/study.db", "file")
    (tmp_path / "runs" / "a" / "study.db").symlink_to(tmp_path / "outside")
    (tmp_path / "runs" / "b").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "runs" / "a" / "ray")
    for path, expected in (("a/study.db", "file"), ("b/study.db", "file"), ("a/ray", FOLDER)):
        with pytest.raises(UserError, match="found a"):
            check_own(root, path, expected)


IN_THE_PLACE: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo, "a folder": Path.mkdir, "a link to itself": lambda path: path.symlink_to(path),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}  # fmt: skip


@pytest.mark.parametrize("what", IN_THE_PLACE)
def test_what_is_in_the_place_of_a_file_or_folder_is_told_and_never_waited_for(tmp_path: Path, what: str) -> None:
    store = Store(tmp_path)
    store.write("a/file", b"1")
    IN_THE_PLACE[what](tmp_path / "a" / "place")
    assert store.read_if_file("a/place") is None and store.read_if_file("a/place/within") is None
    assert store.sizes("a") == {"file": 1}
    assert store.exists("a/place") == (what in ("a pipe", "a folder", "a link to a device"))
    if what in ("a folder", "a link to nothing"):
        assert store.folders("a/place") == []
    else:
        with pytest.raises(UserError, match="found no folder; expected a folder"):
            store.folders("a/place")
    with pytest.raises(FileNotFoundError if what == "a link to nothing" else NotJson):
        store.read_as("a/place", from_json)
