"""Write the second half of docs/tables.md, the columns of every table, from the schemas:

python -m analysis.commands.tables_page docs/tables.md      replaces everything after the marker
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from analysis.tables.predictions import PREDICTIONS, SCHEMA
from analysis.tables.schema import TABLES

MARKER = "<!-- from here on made by: python -m analysis.commands.tables_page docs/tables.md -->\n"
_HEADING = "| column | type | unit | source | |\n|---|---|---|---|---|"


def columns() -> str:
    """One section per table and one row per column, with type, unit, source and description."""
    return "".join(
        f"\n{line}" for name, schema in {**TABLES, PREDICTIONS: SCHEMA}.items() for line in _section(name, schema)
    )


def _section(name: str, schema: pa.Schema) -> Iterator[str]:
    yield f"## {name}\n\n{_text(schema.metadata, 'rows').capitalize()}.\n\n{_HEADING}"
    for field in schema:
        kind = f"{field.type}{'' if field.nullable else ', never null'}"
        about = " | ".join(_text(field.metadata, key) for key in ("unit", "source", "description"))
        yield f"| `{field.name}` | {kind} | {about} |"
    yield ""


def _text(metadata: dict[bytes, bytes], key: str) -> str:
    return metadata[key.encode()].decode().replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(path.read_text().partition(MARKER)[0] + MARKER + columns())
