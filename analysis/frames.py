"""The Parquet of a run as pandas frames: the interface of notebooks, figures and the report.

Types: whole numbers are `Int64` and true/false `boolean`, both with `pd.NA` for null, so that `rewind_epoch` stays an
integer; floats are plain `float64` with NaN for null, so that numpy, scipy and matplotlib take them as they are; text
is `string`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from analysis.plan import find_run
from analysis.schema import TABLES
from lth_trainable.errors import UserError
from lth_trainable.store import Store

_PANDAS = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype(), pa.string(): pd.StringDtype()}


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The four tables of a run. `analysis.schema` describes every column."""

    trials: pd.DataFrame
    epochs: pd.DataFrame
    layers: pd.DataFrame
    verdicts: pd.DataFrame


def load(path: str | os.PathLike[str]) -> Frames:
    """Read `RUN/analysis/*.parquet` of the run at `path`, such as `runs/digits` or an `s3://` URI.

    Raises `UserError` where there is no run, or its results were not gathered yet.
    """
    store, run = find_run(path)
    missing = [name for name in TABLES if not store.exists(parquet_path(run, name))]
    if missing:
        raise UserError(
            f"{os.fspath(path)}: found no {', '.join(f'analysis/{name}.parquet' for name in missing)}; "
            f"gather first: python -m analysis {os.fspath(path)}"
        )
    return to_frames({name: read_table(store, run, name) for name in TABLES})


def parquet_path(run: str, name: str) -> str:
    """Where the table `name` of `run` lies within the store."""
    return f"{run}/analysis/{name}.parquet"


def read_table(store: Store, run: str, name: str) -> pa.Table:
    return parquet.read_table(pa.BufferReader(store.read(parquet_path(run, name))))


def write_table(store: Store, run: str, name: str, table: pa.Table) -> None:
    """Whole or not at all; the same table gives the same bytes with the same pyarrow."""
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    store.write(parquet_path(run, name), sink.getvalue().to_pybytes())


def to_frames(tables: Mapping[str, pa.Table]) -> Frames:
    """Arrow tables -> pandas, in the types of this module."""
    return Frames(**{name: table.to_pandas(types_mapper=_PANDAS.get) for name, table in tables.items()})


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain dicts that JSON can hold, None for every null."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]
