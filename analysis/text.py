"""What the commands print with: a console, plain tables, whole lines; numbers, sizes and times as people read them."""

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


def duration(seconds: float) -> str:
    """0:07, 12:30, 3:05:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def percent(value: float) -> str:
    """A percentage to two significant digits, whole from 10 on: 100, 50, 36, 13, 7.8, 0.54."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def signed(value: float) -> str:
    """Percentage points with a sign and two decimals; a true minus, so that columns of numbers line up."""
    return f"{value:+.2f}".replace("-", "\u2212") if round(value, 2) else "0.00"


def plural(count: int, noun: str) -> str:
    """1 seed, 2 seeds, 1,000 seeds."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
