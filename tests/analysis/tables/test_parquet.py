"""Large tables are folders of parts that every reader takes by the same path; several runs load as one."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest
from pyarrow import parquet

import analysis
from analysis.tables import parquet as files
from analysis.tables import schema
from analysis.tables.parquet import OPTIONAL, read_table, sha256_of, write_table
from lth_trainable.errors import UserError
from lth_trainable.store.store import Store
from tests.support.records import dense, drops, ladder, make_run

ACCURACY = drops({None: 0.96, 64: 0.955, 87.04: 0.95})
SPECS = [*dense(2), *ladder(64, 87.04, seeds=2)]
LAYERS = 2 * 3 + 2 * 9 + 2 * 15  # dense, two levels more at 40 % each, two more again


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, SPECS, ACCURACY)


def parts_of(run: Path, name: str) -> list[str]:
    return sorted(path.name for path in (run / "analysis" / f"{name}.parquet").iterdir())


def test_parts_and_one_file_are_the_same_table_to_every_reader(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analysis.gather(run)
    assert (run / "analysis" / "layers.parquet").is_file()
    monkeypatch.setattr(files, "PART_ROWS", 10)
    split = analysis.gather(run)
    assert parts_of(run, "layers") == [f"part-{number:05}.parquet" for number in range(-(-LAYERS // 10))]
    assert (run / "analysis" / "trials.parquet").is_file()
    loaded = analysis.load(run)
    for name in schema.TABLES:
        for other in (split, loaded):
            pd.testing.assert_frame_equal(getattr(other, name), getattr(whole, name))
    for name in ("epochs", "layers"):
        path, rows = run / "analysis" / f"{name}.parquet", analysis.as_rows(getattr(whole, name))
        assert parquet.read_table(path).to_pylist() == rows
        assert pd.read_parquet(path).shape == (len(rows), len(rows[0]))
        assert pl.read_parquet(path).to_dicts() == pl.scan_parquet(path).collect().to_dicts() == rows
        found = duckdb.sql(f"select * from '{path}'")
        assert [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()] == rows
        assert parquet.read_schema(path / "part-00000.parquet").equals(schema.TABLES[name], check_metadata=True)


def test_parts_come_go_and_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, table = Store(tmp_path), schema.table("layers", [{"run": "r", "trial": str(i)} for i in range(25)])
    path = tmp_path / "r" / "analysis" / "layers.parquet"
    assert read_table(store, "r", "layers") is None
    monkeypatch.setattr(files, "PART_ROWS", 10)
    for rows, count in ((25, 3), (15, 2), (10, 0), (0, 0), (11, 2)):
        sha = write_table(store, "r", "layers", table.slice(0, rows))
        assert path.is_dir() == bool(count)
        assert not count or len(list(path.iterdir())) == count
        found = read_table(store, "r", "layers")
        assert found is not None and found.equals(table.slice(0, rows))
        assert sha == sha256_of(files.read_bytes(store, "r", "layers"))


def test_the_same_rows_give_the_same_bytes_in_whatever_pieces(tmp_path: Path) -> None:
    import pyarrow as pa

    table = schema.table("layers", [{"run": "r", "trial": f"t{i // 7}", "n_kept": i or None} for i in range(5000)])
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 3000), table.slice(3001)])
    assert write_table(Store(tmp_path), "a", "layers", table) == write_table(Store(tmp_path), "b", "layers", pieces)


# -- several runs ------------------------------------------------------------------------------------------------------


def test_runs_load_one_below_the_other(tmp_path: Path) -> None:
    first = make_run(tmp_path / "one", SPECS, ACCURACY).rename(tmp_path / "first")
    second = make_run(tmp_path / "two", SPECS[:3], ACCURACY).rename(tmp_path / "second")
    ours = [analysis.gather(run) for run in (first, second)]
    both = analysis.load_many([first, f"{second}/"])
    for name in schema.TABLES:
        rows = [row for frames in ours for row in analysis.as_rows(getattr(frames, name))]
        assert analysis.as_rows(getattr(both, name)) == rows
        if name not in OPTIONAL:
            one, other = (parquet.read_schema(run / "analysis" / f"{name}.parquet") for run in (first, second))
            assert one.equals(other, check_metadata=True), "so any reader can put them together"
    assert both.trials.groupby("run").size().to_dict() == {"first": 6, "second": 3}


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / place, SPECS[:2], ACCURACY) for place in ("a", "b")]
    for run in runs:
        analysis.gather(run)
    assert list(analysis.load_many(runs).levels.run.unique()) == [str(run) for run in runs]


def test_runs_that_cannot_be_meant_are_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"found no analysis/trials\.parquet"):
        analysis.load_many([run])
    analysis.gather(run)
    with pytest.raises(UserError, match="twice; expected different runs"):
        analysis.load_many([run, f"{run}/"])
    with pytest.raises(UserError, match="found none"):
        analysis.load_many([])
