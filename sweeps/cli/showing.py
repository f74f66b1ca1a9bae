"""What the commands print with: plain tables, whole lines, sizes as people read them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 100  # of tables where standard output is no terminal


def console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def table_of(*headings: str, left: Sequence[str] = ()) -> Table:
    """A plain table: words in the first column and in those of `left`, numbers in the others."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index and heading not in left else "left", overflow="fold")
    return table


def say(to: Console, *parts: str) -> None:
    """One line, whole in a log."""
    to.print("; ".join(part for part in parts if part), soft_wrap=True, markup=False)


def human_bytes(count: int) -> str:
    """999 B, 1.5 kB, 38 MB, 1.2 GB."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"
