"""`RUN/analysis/index.json`: what the last gather read, so that the next one reads only what has changed since.

A trial is recognised by the names, sizes and times of its files. Its rows are taken from the stored tables, if these
are byte for byte as the last gather wrote them and were made by the same code. Without the file everything is read.

The file is sealed, so a damaged one counts as none. A record that was changed in place while its size and time stayed
is not read again: its rows are those of the last gather, which read it before the change. `sweeps.storage check` and
the sweep's command read every record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from analysis.tables.parquet import (
    INDEX,
    OPTIONAL,
    read_bytes,
    read_sums,
    sha256_of,
    to_table,
    with_later_columns,
    write_table,
)
from analysis.tables.predictions import PREDICTIONS
from analysis.tables.records import Files
from analysis.tables.schema import TABLES
from analysis.tables.suggestions import SUGGESTIONS
from lth_trainable.store.json_files import NotJson, seal_json, unseal_json
from lth_trainable.store.store import Store
from lth_trainable.versions import source_sha256

Geometry = Literal["auto", "all", "none"]
REPORT = "report.html"
FORMAT = 2  # 1, of version 0.4.0, had no checksum
OTHERS = (*OPTIONAL, SUGGESTIONS, PREDICTIONS)  # tables that other commands write
SETTLED_NS = 2_000_000_000  # a younger file may still change without a change of its size or time


@dataclass(frozen=True, kw_only=True)
class Known:
    """A trial as the last gather read it. mark: signature of its files; key, status, reason: of its record."""

    mark: str
    key: str
    status: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a gather made its results of. inputs: their digest, None if unknown. report: SHA-256 of the page."""

    inputs: str | None = None
    report: str | None = None


@dataclass(frozen=True, kw_only=True)
class Previous:
    """What the last gather left behind.

    tables: those that are unchanged since; trials: those whose rows can be taken from these tables, by name; geometry:
    what was asked for then, None if there was no gather. made: of what, and the page. compared: what overlaps and signs
    were made of, which stays true when this project changes: these tables, and trials, also with fewer columns.
    """

    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    trials: Mapping[str, Known] = field(default_factory=dict)
    geometry: Geometry | None = None
    made: Made = field(default_factory=Made)
    compared: Mapping[str, pa.Table] = field(default_factory=dict)

    def is_all_of(self, inputs: str | None) -> bool:
        """Whether these tables are all that follows from these inputs."""
        return (
            inputs is not None and inputs == self.made.inputs and TABLES.keys() - OPTIONAL.keys() <= self.tables.keys()
        )


NOTHING_NOTED = Made()
_COMPARED = ("trials", "overlaps", "signs")


def signature_of(files: Files, listed_at_ns: int) -> str | None:
    """Digest of the names, sizes and times of a trial's files; None if they cannot tell whether a file has changed.

    listed_at_ns: when the listing began. A file that was written just before may be written again within one tick of
    the file system's clock, so it has to be read next time too.
    """
    if not files or any(i.mtime_ns is None or i.mtime_ns > listed_at_ns - SETTLED_NS for i in files.values()):
        return None
    text = json.dumps([(name, info.size, info.mtime_ns) for name, info in sorted(files.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_previous(store: Store, run: str) -> Previous:
    """What the last gather left behind; empty if there was none, or if its files cannot be used."""
    path = f"{run}/analysis/{INDEX}"
    if not store.exists(path):
        return Previous()
    try:
        content = store.read_as(path, unseal_json)
        if content["format"] != FORMAT or content["run"] != run:
            return Previous()
        trials = {name: Known(**entry) for name, entry in content["trials"].items()}
        stored = {
            name: table
            for name, sha in content["tables"].items()
            if name in TABLES and name not in OPTIONAL and (table := _unchanged(store, run, name, sha)) is not None
        }
        made = Made(**content.get("made", {}))
        same = content["code"] == source_sha256("analysis")
    except (ValueError, KeyError, TypeError, AttributeError):  # nothing is lost: it can all be read again
        return Previous()
    found = {name: table for name, table in stored.items() if _is_of_this_version(name, table)}
    older = {name: with_later_columns(stored[name], TABLES[name]) for name in _COMPARED if name in stored}
    compared = {name: table.cast(TABLES[name]) for name, table in older.items() if table.schema.equals(TABLES[name])}
    usable = same and {"trials", "epochs", "levels", "layers"} <= set(found)
    return Previous(
        tables=found, trials=trials if usable else {}, geometry=content["geometry"], made=made, compared=compared,
    )  # fmt: skip


def known_trials(store: Store, run: str, folders: Mapping[str, Files], listed_at_ns: int) -> dict[str, Known]:
    """Those of these trials whose files are as the last gather has read them, by name. folders: their files."""
    try:
        content = store.read_as(f"{run}/analysis/{INDEX}", unseal_json)
        if content["format"] != FORMAT or content["run"] != run or content["code"] != source_sha256("analysis"):
            return {}
        known = {name: Known(**entry) for name, entry in content["trials"].items() if name in folders}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # their manifests say it too
        return {}
    return {name: one for name, one in known.items() if signature_of(folders[name], listed_at_ns) == one.mark}


def write_index(
    store: Store,
    run: str,
    sums: Mapping[str, str],
    trials: Mapping[str, Known],
    geometry: Geometry | None,
    made: Made = NOTHING_NOTED,
) -> None:
    """Write the index of this gather. sums: SHA-256 of each table as it was written. made: of what.

    Tables of other commands keep the SHA-256 that the index before this one had, or get that of their files.
    """
    noted = read_sums(store, run) or {}
    others = {name: sha256_of(shards) for name in OTHERS if (shards := read_bytes(store, run, name))}
    tables = {**others, **{name: sha for name, sha in noted.items() if name in others}, **sums}
    content = {
        "format": FORMAT, "run": run, "code": source_sha256("analysis"), "geometry": geometry, "tables": tables,
        "trials": {name: vars(known) for name, known in trials.items()}, "made": vars(made),
    }  # fmt: skip
    store.write(f"{run}/analysis/{INDEX}", seal_json(content))


def write_noted(store: Store, run: str, name: str, table: pa.Table) -> None:
    """Write a table of another command than the gather, and its SHA-256 into the index, if there is one.

    Meanwhile the index has no SHA-256 of it: else the table would seem damaged if this process is killed.
    """
    _note(store, run, name, None)
    _note(store, run, name, write_table(store, run, name, table))


def note_others(store: Store, run: str) -> None:
    """Note tables of other commands that the index does not know, because the process that wrote one was killed."""
    noted = read_sums(store, run)
    for name in OTHERS if noted is not None else ():
        if name not in (noted or {}) and (shards := read_bytes(store, run, name)):
            _note(store, run, name, sha256_of(shards))


def _note(store: Store, run: str, name: str, sha: str | None) -> None:
    """Change the SHA-256 of a table in the index, if there is one; None removes it."""
    path = f"{run}/analysis/{INDEX}"
    with contextlib.suppress(FileNotFoundError, NotJson, KeyError, TypeError, AttributeError):  # a gather notes it
        content = store.read_as(path, unseal_json)
        others = {other: its for other, its in content["tables"].items() if other != name}
        store.write(path, seal_json({**content, "tables": others if sha is None else {**others, name: sha}}))


def sha256_of_report(store: Store, run: str) -> str | None:
    """SHA-256 of the page as it is stored; None if there is none."""
    content = store.read_if_file(f"{run}/{REPORT}")
    return None if content is None else hashlib.sha256(content).hexdigest()


def _unchanged(store: Store, run: str, name: str, sha: str) -> pa.Table | None:
    """The stored table if its bytes have this SHA-256, else None."""
    parts = read_bytes(store, run, name)
    return to_table(parts) if parts and sha256_of(parts) == sha else None


def _is_of_this_version(name: str, table: pa.Table) -> bool:
    return bool(table.schema.equals(TABLES[name], check_metadata=True))
