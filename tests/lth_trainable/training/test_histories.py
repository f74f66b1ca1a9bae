"""Histories that a process keeps are what readers of the files get, and texts made once are those of plain rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import digest
from lth_trainable.store import contents
from lth_trainable.store.contents import HISTORIES, MOST_HISTORIES, keep_written_history, read_history
from lth_trainable.store.indented import Fixed, dumps
from lth_trainable.store.store import HISTORY, RECORD, STATES, Damaged, Sealed, Store
from lth_trainable.training.run import run_trial

SECOND = TrialSpec(epochs=2, rewind_epoch=0, prune_rate_pct=40.0, target_sparsity_pct=64.0)
FIRST = replace(SECOND, target_sparsity_pct=40.0)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    HISTORIES.clear()
    yield
    HISTORIES.clear()


def end_of(store: Store, record: dict[str, Any]) -> Sealed:
    """The folder of a trial's last state."""
    key = record["states"]["final"]
    (fingerprint,) = store.folders(f"{STATES}/{key}")
    found = store.find(f"{STATES}/{key}/{fingerprint}")
    assert found is not None
    return found


def kept(folder: Sealed) -> dict[str, Any] | None:
    return HISTORIES.get(folder.manifest["files"][HISTORY]["sha256"])


def test_what_was_written_is_kept_as_a_reader_gets_it(store: Store) -> None:
    folder = end_of(store, run_trial(SECOND, store))
    before = kept(folder)
    HISTORIES.clear()
    read = read_history(store, folder)
    assert before is not None and before == read
    assert dumps(before) == dumps(read)  # 1 and 1.0 are equal, their texts are not
    assert {type(row) for row in (*before["rows"], *read["rows"])} == {Fixed}
    assert kept(folder) is None  # readers that train nothing keep nothing


def test_a_level_that_goes_on_takes_nothing_apart_again_and_writes_the_same(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Store(tmp_path / "fresh")
    run_trial(FIRST, fresh)
    HISTORIES.clear()
    alone = run_trial(SECOND, fresh)
    first = run_trial(FIRST, store)
    lengths: list[int] = []
    monkeypatch.setattr(
        contents, "object_of", lambda *a, taken=contents.object_of: lengths.append(len(a[2])) or taken(*a)
    )
    second = run_trial(SECOND, store)
    assert all(one is other for one, other in zip(first["epochs"], second["epochs"], strict=False))
    assert lengths and max(lengths) < len(store.content(end_of(store, second), HISTORY)) - 6 * len(
        dumps(first["epochs"][0])
    )
    assert second["sha256"] == alone["sha256"] and len(second["epochs"]) == 6
    for where, record in ((store, second), (fresh, alone)):
        raw = where.read(f"alone/trials/{SECOND.name}/{RECORD}")
        assert raw.decode() == json.dumps(json.loads(raw), indent=1, sort_keys=True) + "\n"
        rows = [{n: v for n, v in row.items() if n not in ("seconds", "trained_by")} for row in record["epochs"]]
        assert record["sha256"]["metrics"] == digest([rows, record["result"]])


def test_bytes_that_change_after_they_were_kept_are_damaged(store: Store) -> None:
    folder = end_of(store, run_trial(FIRST, store))
    path = Path(store.root, folder.path, folder.manifest["files"][HISTORY]["file"])
    path.write_bytes(path.read_bytes().replace(b'"epoch": 1', b'"epoch": 0'))
    assert kept(folder) is not None
    with pytest.raises(Damaged, match="SHA-256"):
        read_history(store, folder)


def test_what_a_reader_would_refuse_is_not_kept(store: Store) -> None:
    folder = end_of(store, run_trial(FIRST, store))
    history = read_history(store, folder)
    for odd in ([*history["rows"][:-1], Fixed({**history["rows"][-1], "epoch": 1.5})], [dict(history["rows"][0])]):
        HISTORIES.clear()
        keep_written_history(folder, {**history, "rows": odd})
        assert kept(folder) is None
    keep_written_history(folder, history)
    assert kept(folder) == history


def test_only_the_latest_are_kept() -> None:
    for number in range(MOST_HISTORIES + 1):
        HISTORIES.put(str(number), {"rows": []})
        assert HISTORIES.get("0") is not None  # asked for, so it stays
    assert HISTORIES.get("1") is None and HISTORIES.get(str(MOST_HISTORIES)) is not None
