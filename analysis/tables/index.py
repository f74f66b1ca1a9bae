"""`RUN/analysis/index.json`: what the last gather saw, so that the next one reads only what has changed since.

A trial is known by the names, sizes and times of its files. Its rows are taken from the tables that are there, if those
are byte for byte as the last gather wrote them and were made by this code. Without the file everything is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from analysis.tables.parquet import read_bytes, sha256_of, to_table
from analysis.tables.records import Files
from analysis.tables.schema import TABLES
from lth_trainable.store.store import Store, to_json
from lth_trainable.versions import source_sha256

INDEX = "index.json"
Geometry = Literal["auto", "all", "none"]
FORMAT = 1
SETTLED_NS = 2_000_000_000  # a file this young may change once more without a change of size or time


@dataclass(frozen=True, kw_only=True)
class Known:
    """A trial as the last gather read it. mark: of its files; key, status, reason: of its record."""

    mark: str
    key: str
    status: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Previous:
    """What the last gather left. tables: those that are as it wrote them; trials: by name, whose rows are in them.

    geometry: what was asked for then, None where there was no gather.
    """

    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    trials: Mapping[str, Known] = field(default_factory=dict)
    geometry: Geometry | None = None


def signature_of(files: Files, listed_at_ns: int) -> str | None:
    """Names, sizes and times of a trial's files in one word; None where they say too little.

    listed_at_ns: when the listing began. A file that was written just before may be written again within one tick of
    the file system's clock, so it is read next time too.
    """
    if not files or any(i.mtime_ns is None or i.mtime_ns > listed_at_ns - SETTLED_NS for i in files.values()):
        return None
    text = json.dumps([(name, info.size, info.mtime_ns) for name, info in sorted(files.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_previous(store: Store, run: str) -> Previous:
    """What the last gather left; nothing where there was none, or its files cannot be used."""
    path = f"{run}/analysis/{INDEX}"
    if not store.exists(path):
        return Previous()
    try:
        content = json.loads(store.read(path))
        if content["format"] != FORMAT or content["run"] != run:
            return Previous()
        trials = {name: Known(**entry) for name, entry in content["trials"].items()}
        tables = {name: _unchanged(store, run, name, sha) for name, sha in content["tables"].items() if name in TABLES}
        same = content["code"] == source_sha256("analysis")
    except (ValueError, KeyError, TypeError, AttributeError):  # nothing is lost: it can all be read again
        return Previous()
    found = {name: table for name, table in tables.items() if table is not None}
    usable = same and {"trials", "epochs", "levels", "layers"} <= set(found)
    return Previous(tables=found, trials=trials if usable else {}, geometry=content["geometry"])


def write_index(
    store: Store, run: str, sums: Mapping[str, str], trials: Mapping[str, Known], geometry: Geometry | None
) -> None:
    """sums: SHA-256 of each table as it was written."""
    content = {
        "format": FORMAT, "run": run, "code": source_sha256("analysis"), "geometry": geometry, "tables": dict(sums),
        "trials": {name: vars(known) for name, known in trials.items()},
    }  # fmt: skip
    store.write(f"{run}/analysis/{INDEX}", to_json(content))


def _unchanged(store: Store, run: str, name: str, sha: str) -> pa.Table | None:
    """The table, if its bytes have this SHA-256 and its columns are those of this version."""
    parts = read_bytes(store, run, name)
    if not parts or sha256_of(parts) != sha:
        return None
    table = to_table(parts)
    return table if table.schema.equals(TABLES[name], check_metadata=True) else None
