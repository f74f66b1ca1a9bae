"""The study of a search, killed before each statement of SQL or line of a journal: it goes on to the same study.

With every sampler, in the run's folder, in a database elsewhere and in a journal file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event
from sqlalchemy.engine import Engine

from lth_trainable.store.store import Store
from sweeps.experiments.recipes import digits
from sweeps.search.axes import Choice, Range
from sweeps.search.searches import Search
from sweeps.search.study import Study
from tests.support.crash_points import Left, left_by_kills, objects_left_by_kills, parts, step
from tests.support.s3 import s3_server, storage

TPE = Search(
    sweep=replace(digits(), name="search", seeds=(0,), base={"epochs": 2}, axes={}),
    axes={"target_sparsity_pct": Range(low=50.0, high=90.0), "rewind_epoch": Choice(values=(0, 1))},
    suggestions=3,
).check()
AXES = {**TPE.axes, "schedule": Choice(values=("imp", "omp")), "prune_rate_pct": Choice(values=(20.0, 40.0))}
FINITE = {**AXES, "target_sparsity_pct": Choice(values=(64.0, 80.0))}
SEARCHES = {
    "tpe": TPE, "gp": replace(TPE, sampler="gp"), "nsga2": replace(TPE, sampler="nsga2", suggestions=5),
    "random": replace(TPE, sampler="random", axes=AXES).check(),
    "grid": replace(TPE, sampler="grid", axes=FINITE, suggestions=6).check(),
}  # fmt: skip
PLACES = {"run": None, "database": "sqlite:///elsewhere.db", "journal": "elsewhere.log"}
RUN = "search"


@pytest.fixture(autouse=True)
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each statement that SQLite is to execute, each commit and each line of a journal is a step.

    SQLite does not wait for the disk.
    """

    def statement(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        if not text.startswith("SELECT"):
            step(text[:60])

    def commit(connection: Any) -> None:
        step("COMMIT")

    def appended(of: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        step("append")
        append(of, logs)
        step("appended")

    append = JournalFileBackend.append_logs
    monkeypatch.setattr(JournalFileBackend, "append_logs", appended)

    def connected(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    listeners = {"before_cursor_execute": statement, "commit": commit, "connect": connected}
    for name, listener in listeners.items():
        event.listen(Engine, name, listener)
    yield
    for name, listener in listeners.items():
        event.remove(Engine, name, listener)


def search(store: Store, what: Search = TPE, at: str | None = None) -> None:
    """Suggestions whose results follow from their points, each with a level on its way."""
    study = Study(what, store, RUN, at)
    while study.n_told < what.suggestions or study.has_waiting:
        asked = study.ask()
        study.note(asked.number, trials=[f"trial-{asked.number}"])
        values = {"accuracy": 1 / asked.point["target_sparsity_pct"], "sparsity": asked.point["target_sparsity_pct"]}
        study.note(asked.number, **values)
        if not asked.on_way and what.sampler != "grid":
            study.ask_on_way(asked.number, {**asked.point, "target_sparsity_pct": 51.0 + asked.number})
        study.tell(asked.number, values)
    study.close()


def told(store: Store, what: Search = TPE, at: str | None = None) -> list[tuple[int, str, Mapping[str, Any], Any, Any]]:
    study = Study(what, store, RUN, at)
    found = [(t.number, t.state.name, t.params, t.values, t.user_attrs) for t in study.trials()]
    assert study.n_of_others == 0
    study.close()
    for *_, attributes in found:
        attributes.pop("search_id", None)
    return found


def in_folder(folder: Path, do: Callable[[Store], Any]) -> Any:
    """Where paths such as the one of a journal are relative to it, as in the user's folder."""
    with contextlib.chdir(folder):
        return do(Store(folder / "runs"))


SOME, MANY, ALL = 9, 3, 1  # of the moments: every 9th, every third, all
CASES = [
    ("tpe", "run", 8, SOME), ("random", "journal", 8, 4 * SOME), ("grid", "database", 8, 4 * SOME),
    pytest.param("tpe", "run", 8, ALL, marks=pytest.mark.slow),
    *(pytest.param(sampler, place, 2, SOME if sampler == "gp" else MANY, marks=pytest.mark.slow)
      for sampler in SEARCHES for place in PLACES),
]  # fmt: skip


@pytest.mark.parametrize(("sampler", "place", "startup", "every"), CASES)
def test_a_study_that_is_killed_goes_on_to_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, place: str, startup: int, every: int
) -> None:
    monkeypatch.setattr("sweeps.search.samplers.STARTUP", startup)
    what, at = SEARCHES[sampler], PLACES[place]
    train, look = (functools.partial(do, what=what, at=at) for do in (search, told))
    folder = tmp_path / "first"
    folder.mkdir()
    lefts = left_by_kills(folder, lambda: in_folder(folder, train), halves=place == "journal")
    expected = in_folder(folder, look)
    assert len(lefts) > 30 and len(expected) == (1 if sampler == "grid" else 2) * what.suggestions
    assert len({str(values) for _, _, values, _, _ in expected}) > what.suggestions // 2
    for number, left in enumerate(lefts[::every]):
        again = tmp_path / str(number)
        left.restore(again)
        (again / "elsewhere.log.lock").unlink(missing_ok=True)  # a kill while it is held costs 30 s
        in_folder(again, train)
        assert in_folder(again, look) == expected, left.after
        kept = {"study.db"} if at is None else {"study.json"}
        files = {path.name for path in (again / "runs" / RUN).iterdir()}
        assert files - parts(dict.fromkeys(files)) == kept, left.after


def test_a_study_in_a_bucket_goes_on_from_the_last_copy(tmp_path: Path) -> None:
    pytest.importorskip("boto3", reason="for the test extra")
    pytest.importorskip("moto.server", reason="for the test extra")
    with s3_server() as server:
        lefts: list[Left] = objects_left_by_kills("first", lambda: search(Store(storage(server, "first"))))
        expected = told(Store(storage(server, "first")))
        assert len(lefts) > 2 * TPE.suggestions
        for number, left in enumerate(lefts):
            left.put(str(number))
            store = Store(storage(server, str(number)))
            search(store)
            assert told(store) == expected, left.after
