"""The study of a search, killed before each statement of SQL: it goes on to the same study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from lth_trainable.store.store import Store
from sweeps.experiments.recipes import digits
from sweeps.search.axes import Choice, Range
from sweeps.search.searches import Search
from sweeps.search.study import Study
from tests.support.crash_points import Left, left_by_kills, objects_left_by_kills, step
from tests.support.s3 import s3_server, storage

SEARCH = Search(
    sweep=replace(digits(), name="search", seeds=(0,), base={"epochs": 2}, axes={}),
    axes={"target_sparsity_pct": Range(low=50.0, high=90.0), "rewind_epoch": Choice(values=(0, 1))},
    suggestions=3,
).check()
RUN = "search"


@pytest.fixture(autouse=True)
def statements() -> Iterator[None]:
    """Each statement that SQLite is to execute, and each commit, is a step. SQLite does not wait for the disk."""

    def statement(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        if not text.startswith("SELECT"):
            step(text[:60])

    def commit(connection: Any) -> None:
        step("COMMIT")

    def connected(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    listeners = {"before_cursor_execute": statement, "commit": commit, "connect": connected}
    for name, listener in listeners.items():
        event.listen(Engine, name, listener)
    yield
    for name, listener in listeners.items():
        event.remove(Engine, name, listener)


def search(store: Store) -> None:
    """Suggestions whose results follow from their points, each with a level on its way."""
    study = Study(SEARCH, store, RUN)
    while study.n_told < SEARCH.suggestions or study.has_waiting:
        asked = study.ask()
        study.note(asked.number, trials=[f"trial-{asked.number}"])
        values = {"accuracy": 1 / asked.point["target_sparsity_pct"], "sparsity": asked.point["target_sparsity_pct"]}
        study.note(asked.number, **values)
        if not asked.on_way:
            study.ask_on_way(asked.number, {**asked.point, "target_sparsity_pct": 51.0 + asked.number})
        study.tell(asked.number, values)
    study.close()


def told(store: Store) -> list[tuple[int, str, Mapping[str, Any], Any, Any]]:
    study = Study(SEARCH, store, RUN)
    found = [(t.number, t.state.name, t.params, t.values, t.user_attrs) for t in study.trials()]
    study.close()
    return found


@pytest.mark.parametrize(
    ("startup", "every"),
    [(8, 9), pytest.param(8, 1, marks=pytest.mark.slow), pytest.param(2, 1, marks=pytest.mark.slow)],
    ids=["some kills", "all kills", "all kills, and the sampler has learnt"],
)
def test_a_study_that_is_killed_goes_on_to_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, startup: int, every: int
) -> None:
    monkeypatch.setattr("sweeps.search.study.STARTUP", startup)
    folder = tmp_path / "first"
    folder.mkdir()
    lefts = left_by_kills(folder, lambda: search(Store(folder)), halves=False)
    expected = told(Store(folder))
    assert len(lefts) > 30 and len(expected) == 2 * SEARCH.suggestions
    for number, left in enumerate(lefts[::every]):
        again = tmp_path / str(number)
        left.restore(again)
        search(Store(again))
        assert told(Store(again)) == expected, left.after
        assert {path.name for path in (again / RUN).iterdir()} == {"study.db"}, left.after


def test_a_study_in_a_bucket_goes_on_from_the_last_copy(tmp_path: Path) -> None:
    pytest.importorskip("boto3", reason="for the test extra")
    pytest.importorskip("moto.server", reason="for the test extra")
    with s3_server() as server:
        lefts: list[Left] = objects_left_by_kills("first", lambda: search(Store(storage(server, "first"))))
        expected = told(Store(storage(server, "first")))
        assert len(lefts) > 2 * SEARCH.suggestions
        for number, left in enumerate(lefts):
            left.put(str(number))
            store = Store(storage(server, str(number)))
            search(store)
            assert told(store) == expected, left.after
