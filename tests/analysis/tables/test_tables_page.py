"""docs/tables.md lists every column of every table, as the schemas have them."""

from __future__ import annotations

import re

from analysis.commands.tables_page import MARKER, columns
from analysis.tables import geometry, overlaps
from analysis.tables import parquet as frames
from analysis.tables.schema import TABLES
from tests.support.command import ROOT

PAGE = (ROOT / "docs" / "tables.md").read_text()


def test_the_columns_are_those_of_the_schemas() -> None:
    assert PAGE.partition(MARKER)[2] == columns(), "run: python -m analysis.commands.tables_page docs/tables.md"


def test_every_column_of_every_table_is_on_it() -> None:
    sections = {part.partition("\n")[0]: part for part in columns().split("\n## ")[1:]}
    for name, schema in TABLES.items():
        rows = [line for line in sections[name].splitlines() if line.startswith("| `")]
        assert [line.split("`")[1] for line in rows] == schema.names
        assert all(len(re.split(r"(?<!\\)\|", line)) == 7 and "|  |" not in line for line in rows)


def test_the_limits_are_those_of_the_code() -> None:
    for text in (f"{frames.PART_ROWS:,} rows", f"{geometry.AUTO_BYTES >> 20} MB", f"{geometry.AUTO_ROWS:,} rows"):
        assert text in PAGE
    assert overlaps.MEMBERS == 10 and "the first ten of `trials`" in PAGE
