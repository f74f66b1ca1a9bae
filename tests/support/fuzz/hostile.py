"""Files that a hostile author has written: other content, with every checksum right."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from lth_trainable.spec.values import digest
from lth_trainable.store.store import MANIFEST
from tests.support.fuzz.damage import NASTY, nasty, remove, replace_bytes

_HASHED = re.compile(r"(?P<stem>.+)-[0-9a-f]{12}(?P<ending>\.[^.]+)")


def rewrite(path: Path, rng: Random) -> None:
    """Change the content of a JSON, safetensors, Parquet or SQLite file, and every checksum over it."""
    for ending, change in _CHANGES.items():
        if path.name.endswith(ending):
            change(path, rng)
            return
    replace_bytes(path, bytes(rng.randrange(256) for _ in range(rng.randrange(1, 300))))
    _reseal_folder(path)


# -- JSON --------------------------------------------------------------------------------------------------------------


def _json(path: Path, rng: Random) -> None:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return
    changed = nasty(content, rng)
    if path.name == MANIFEST:
        _write_manifest(path, changed)
        return
    raw = json.dumps(changed, indent=1).encode()
    if isinstance(content, dict) and "sha256" in content and isinstance(changed, dict) and path.name != "record.json":
        raw = _sealed(changed)
    if rng.random() < 0.1:
        raw = raw.replace(b"{", b'{"twice": 1, "twice": 2,', 1)
    replace_bytes(path, raw)
    _reseal_folder(path)


def _sealed(content: Mapping[str, Any]) -> bytes:
    """As `seal_json` writes it, also for content that it would refuse to write."""
    zeros = "0" * 64
    blank = (json.dumps({**content, "sha256": zeros}, indent=1, sort_keys=True) + "\n").encode()
    mark = f'\n "sha256": "{zeros}'.encode()
    return blank.replace(mark, mark.replace(zeros.encode(), hashlib.sha256(blank).hexdigest().encode()), 1)


def _write_manifest(path: Path, content: Any) -> None:
    if isinstance(content, dict):
        rest = {name: value for name, value in content.items() if name != "sha256"}
        content = {**rest, "sha256": digest(rest)}
    replace_bytes(path, json.dumps(content, indent=1).encode())


def _reseal_folder(path: Path) -> None:
    """Let the manifest beside a file, if there is one, state its size and SHA-256, and its name that of its content."""
    manifest = path.parent / MANIFEST
    if not manifest.is_file() or path.name == MANIFEST or not path.is_file():
        return
    raw = path.read_bytes()
    sha = hashlib.sha256(raw).hexdigest()
    found = _HASHED.fullmatch(path.name)
    content = json.loads(manifest.read_bytes())
    name = path.name
    entry: dict[str, Any] = {"size": len(raw), "sha256": sha}
    if found is not None:
        name, file = found["stem"] + found["ending"], f"{found['stem']}-{sha[:12]}{found['ending']}"
        path.rename(path.with_name(file))
        entry["file"] = file
    if name in content["files"]:
        content["files"][name] = entry
        _write_manifest(manifest, content)


# -- tensors -----------------------------------------------------------------------------------------------------------


def _safetensors(path: Path, rng: Random) -> None:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
    names = [name for name in header if name != "__metadata__"]
    way = rng.randrange(5)
    if not names:
        header["new"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        data = bytearray(4)
    elif way == 0:  # another name
        header[rng.choice(("", "new", "../x", "1/new", "x/y", "optimizer/x/y", "a\x1b[2J"))] = header.pop(
            rng.choice(names)
        )
    elif way == 1:  # another shape or type of the same size
        entry = header[rng.choice(names)]
        entry["shape"] = rng.choice(([1, *entry["shape"]], entry["shape"][::-1], [*entry["shape"], 1]))
    elif way == 2:
        entry = header[rng.choice(names)]
        entry["dtype"] = {"F32": "I32", "U8": "I8", "BOOL": "U8", "I64": "F64"}.get(entry["dtype"], entry["dtype"])
    elif way == 3:  # the header is anything
        header = nasty(header, rng)
    else:  # not finite
        for at in range(0, len(data) - 4, max(4, len(data) // 40 * 4)):
            data[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e38)))
    text = json.dumps(header).encode()
    replace_bytes(path, struct.pack("<Q", len(text)) + text + bytes(data))
    _reseal_folder(path)


# -- tables ------------------------------------------------------------------------------------------------------------


def _parquet(path: Path, rng: Random) -> None:
    table = parquet.read_table(path)
    way, name = rng.randrange(6), rng.choice(table.schema.names)
    at = table.schema.get_field_index(name)
    if way == 0:
        table = table.drop_columns([name])
    elif way == 1:
        table = table.rename_columns([f"{n}x" if n == name else n for n in table.schema.names])
    elif way == 2:
        table = table.set_column(at, name, pa.nulls(table.num_rows, table.schema.field(name).type))
    elif way == 3:
        values = [rng.choice(("x", "a\x1b[2J", "../../outside/canary")) for _ in range(table.num_rows)]
        table = table.set_column(at, name, pa.array(values, pa.string()))
    elif way == 4:
        table = pa.concat_tables([table, table])
    else:
        table = table.slice(0, table.num_rows // 2)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    raw = sink.getvalue().to_pybytes()
    replace_bytes(path, raw)
    index = path.parent / "index.json"
    if index.is_file():
        content = json.loads(index.read_bytes())
        content["tables"][path.stem] = hashlib.sha256(raw).hexdigest()
        replace_bytes(index, _sealed(content))


# -- the study ---------------------------------------------------------------------------------------------------------


def _sqlite(path: Path, rng: Random) -> None:
    with sqlite3.connect(path) as study:
        tables = [name for (name,) in study.execute("select name from sqlite_master where type = 'table'")]
        table = rng.choice(tables)
        columns = [row[1] for row in study.execute(f"pragma table_info({table})")]
        column, way = rng.choice(columns), rng.randrange(4)
        value = rng.choice(
            [v for v in NASTY if isinstance(v, str | float | None) and v != "\udc80"] + ['"x"', "[]", "{", "null"]
        )
        statements = {
            0: (f"update {table} set {column} = ?", (value,)), 1: (f"delete from {table}", ()),
            2: (f"drop table {table}", ()), 3: (f"alter table {table} rename column {column} to other", ()),
        }  # fmt: skip
        try:
            study.execute(*statements[way])
        except sqlite3.Error:  # the schema itself refuses it
            remove(path)
            path.write_bytes(b"SQLite format 3\0" + bytes(rng.randrange(256) for _ in range(500)))


_CHANGES: Mapping[str, Callable[[Path, Random], None]] = {
    ".json": _json, ".safetensors": _safetensors, ".parquet": _parquet, ".db": _sqlite,
}  # fmt: skip
