"""Reading and writing the tables of a run as Parquet; `Frames` is how notebooks, figures and the report see them.

Each table is `RUN/analysis/<table>.parquet`: a file, or if it has more than `PART_ROWS` rows a folder of that name with
the files `part-00000.parquet`, `part-00001.parquet`, ... `pyarrow.parquet.read_table`, `pandas.read_parquet`,
`polars.read_parquet` and DuckDB's `from '...'` take the path as it is, whichever it is.

Types: whole numbers are `Int64` and true/false `boolean`, both with `pd.NA` for null, so that `rewind_epoch` stays an
integer; floats are plain `float64` with NaN for null, so that numpy, scipy and matplotlib take them as they are; text
is `string`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from pyarrow import parquet

from analysis.tables.run_plan import KEPT, find_run
from analysis.tables.schema import TABLES
from lth_trainable.errors import UserError
from lth_trainable.store.json_files import NotJson, unseal_json
from lth_trainable.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

Found = TypeVar("Found")

PART_ROWS = 1_000_000  # of one file; a larger table is a folder of shards
# Tables that other commands write, and these commands; if there is no file, the table is empty
OPTIONAL = {"barriers": "barrier", "connections": "barrier", "supermasks": "supermasks"}
LATER = ("variances", "published")  # runs that version 0.4.0 has gathered do not have them: empty
UNSEALED = 1  # format of an index of version 0.4.0, without a checksum
INDEX = "index.json"  # has the SHA-256 of every table, see `tables/index.py`
ATTEMPTS, PAUSE_SECONDS = 4, 0.5  # to read tables that a gather may just be writing


def _as_pandas(name: str) -> functools.cached_property[pd.DataFrame]:
    def make(frames: Frames) -> pd.DataFrame:
        import pandas as pd  # a fifth of a second, and a command that trains needs it at its end only

        types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype(), pa.string(): pd.StringDtype()}
        return frames.tables[name].to_pandas(types_mapper=types.get)

    return functools.cached_property(make)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The tables of a run, each also as pandas, which is made when it is first asked for.

    `analysis.tables.schema` describes every column, and so does docs/tables.md.
    """

    tables: Mapping[str, pa.Table]

    trials = _as_pandas("trials")
    epochs = _as_pandas("epochs")
    levels = _as_pandas("levels")
    layers = _as_pandas("layers")
    overlaps = _as_pandas("overlaps")
    signs = _as_pandas("signs")
    barriers = _as_pandas("barriers")
    supermasks = _as_pandas("supermasks")
    connections = _as_pandas("connections")
    verdicts = _as_pandas("verdicts")
    variances = _as_pandas("variances")
    published = _as_pandas("published")

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table as plain dicts, None for every null. They are made once: copy one before changing it."""
        if name not in self._rows:
            self._rows[name] = self.tables[name].to_pylist()
        return self._rows[name]

    def once(self, of: Callable[[Frames], Found]) -> Found:
        """What a function makes of these tables, computed when it is first asked for: each figure is drawn twice."""
        if of not in self._found:
            self._found[of] = of(self)
        found: Found = self._found[of]
        return found

    @functools.cached_property
    def _rows(self) -> dict[str, list[dict[str, Any]]]:
        return {}

    @functools.cached_property
    def _found(self) -> dict[Callable[[Frames], Any], Any]:
        return {}


def load(path: str | os.PathLike[str]) -> Frames:
    """Read the tables of the run at `path`, such as `runs/digits` or an `s3://` URI.

    Raises `UserError` if there is no run, or if its results have not been gathered yet.
    """
    return Frames(tables=_load(path))


def load_many(paths: Iterable[str | os.PathLike[str]]) -> Frames:
    """The tables of several runs, one below the other; the column `run` tells them apart.

    Runs of the same name in different folders have their paths, as given, in that column. Raises `UserError` as `load`
    does, without a path, and for a run that is named twice.
    """
    given = [os.fspath(path).rstrip("/") for path in paths]
    runs = [find_run(path) for path in given]
    places = [store.at(run) for store, run in runs]
    twice = next((path for path, place in zip(given, places, strict=True) if places.count(place) > 1), None)
    if twice is not None or not given:
        raise UserError(f"runs: found {f'{twice} twice' if twice else 'none'}; expected different runs")
    names = Counter(run for _, run in runs)
    loaded = [
        _renamed(_load(path), path) if names[run] > 1 else _load(path)
        for path, (_, run) in zip(given, runs, strict=True)
    ]
    return Frames(tables={name: pa.concat_tables([tables[name] for tables in loaded]) for name in TABLES})


def _load(path: str | os.PathLike[str]) -> dict[str, pa.Table]:
    store, run = find_run(path)
    again, first = (f"gather {when}: python -m analysis {os.fspath(path)}" for when in ("again", "first"))
    if store.exists(f"{run}/{KEPT}"):
        again = first = f"these are kept results: get the file back, or unpack {run}.tar.xz elsewhere and gather that"
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS if attempt else 0)
        contents, sums = {name: read_bytes(store, run, name) for name in TABLES}, read_sums(store, run)
        checked = {} if sums is None else contents  # without an index there is nothing to compare with
        changed = [name for name, shards in checked.items() if shards and (sums or {}).get(name) != sha256_of(shards)]
        if not changed:
            break
    missing = [name for name, shards in contents.items() if not shards and name not in (*OPTIONAL, *LATER)]
    if missing:
        raise UserError(
            f"{os.fspath(path)}: found no {', '.join(f'analysis/{name}.parquet' for name in missing)}; {first}"
        )
    if changed:
        raise UserError(f"{os.fspath(path)}: analysis/{changed[0]}.parquet is not the one that {INDEX} names; {again}")
    tables: dict[str, pa.Table] = {}
    for name, shards in contents.items():
        try:
            tables |= {name: to_table(shards)} if shards else {}
        except (pa.ArrowInvalid, OSError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"{os.fspath(path)}: analysis/{name}.parquet cannot be read ({why}); {again}") from error
    for name, table in tables.items():
        tables[name] = with_later_columns(table, TABLES[name])
        if tables[name].schema.names != TABLES[name].names:
            raise UserError(
                f"{os.fspath(path)}: analysis/{name}.parquet has other columns than those of this version; {again}"
            )
    return {name: tables.get(name, TABLES[name].empty_table()) for name in TABLES}


def with_later_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of an earlier version with nulls in the columns that have been added since, where these may be null."""
    if not set(table.schema.names) < set(schema.names):
        return table
    added = {field.name: field for field in schema if field.name not in table.schema.names and field.nullable}
    for field in added.values():
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select([name for name in schema.names if name in table.schema.names])


def _renamed(tables: Mapping[str, pa.Table], run: str) -> dict[str, pa.Table]:
    def renamed(table: pa.Table) -> pa.Table:
        column = pa.repeat(pa.scalar(run, pa.string()), table.num_rows)
        return table.set_column(0, table.schema.field("run"), column)

    return {name: renamed(table) for name, table in tables.items()}


# -- files -----------------------------------------------------------------------------------------------------------


def parquet_path(run: str, name: str) -> str:
    """Path of a table within the store: a file, or a folder of shards."""
    return f"{run}/analysis/{name}.parquet"


def read_table(store: Store, run: str, name: str) -> pa.Table | None:
    """A table of another command as it is stored, or None if it is not. Raises `UserError` if it is damaged."""
    shards = read_bytes(store, run, name)
    again = (
        f"python -m analysis {OPTIONAL[name]} {store.at(run)}" if name in OPTIONAL else "run the search's command again"
    )
    problem = "it is not as it was written" if shards else "it is not a file"
    try:
        if not shards and not store.exists(parquet_path(run, name)):
            return None
        if shards and (read_sums(store, run) or {}).get(name, sha256_of(shards)) == sha256_of(shards):
            return to_table(shards)
    except (pa.ArrowInvalid, OSError) as error:
        problem = str(error).splitlines()[0]
    raise UserError(
        f"{store.at(parquet_path(run, name))}: cannot be read ({problem}); remove it, and make it again: {again}"
    )


def read_sums(store: Store, run: str) -> dict[str, str] | None:
    """SHA-256 of the tables as they were written, by name; empty if the index is damaged, None if there is none."""
    path = f"{run}/analysis/{INDEX}"
    if not store.exists(path):
        return None
    try:
        content = store.read_as(path, lambda raw: unseal_json(raw, UNSEALED))
        return {name: str(sha) for name, sha in content["tables"].items()}
    except (NotJson, KeyError, AttributeError):  # gathering writes another one
        return {}


def write_table(store: Store, run: str, name: str, table: pa.Table) -> str:
    """Write a table, each file completely or not at all, and return the SHA-256 of its contents.

    The same rows give the same bytes with the same version of pyarrow, however the table was put together.
    """
    path = parquet_path(run, name)
    slices = [table.slice(start, PART_ROWS) for start in range(0, max(1, table.num_rows), PART_ROWS)]
    shards = [_to_bytes(shard) for shard in slices]
    is_folder = path.rpartition("/")[2] in store.folders(f"{run}/analysis")
    if len(shards) == 1:
        if is_folder:
            store.delete_folder(path)
        store.write(path, shards[0])
    else:
        if not is_folder:
            store.delete(path)
        names = [f"part-{number:05}.parquet" for number in range(len(shards))]
        for shard, content in zip(names, shards, strict=True):
            store.write(f"{path}/{shard}", content)
        for stray in set(store.sizes(path)) - set(names):
            store.delete(f"{path}/{stray}")
    return sha256_of(shards)


def read_bytes(store: Store, run: str, name: str) -> list[bytes]:
    """The contents of the files of a table, in their order; empty if it is not stored."""
    path = parquet_path(run, name)
    if path.rpartition("/")[2] in store.folders(f"{run}/analysis"):
        paths = [f"{path}/{shard}" for shard in sorted(store.sizes(path)) if shard.endswith(".parquet")]
    else:
        paths = [path]
    return [content for each in paths if (content := store.read_if_file(each)) is not None]


def to_table(shards: Sequence[bytes]) -> pa.Table:
    """A table from the contents of its files."""
    return pa.concat_tables([parquet.read_table(pa.BufferReader(shard)) for shard in shards])


def sha256_of(shards: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for shard in shards:
        sha.update(shard)
    return sha.hexdigest()


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table.combine_chunks(), sink, compression="zstd")  # pages end where chunks do
    return sink.getvalue().to_pybytes()


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain dicts that JSON can hold, None for every null."""
    names = [str(name) for name in frame.columns]
    columns = (column.astype(object).where(column.notna(), None).tolist() for _, column in frame.items())
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
