"""What the commands print with: a console, plain tables, whole lines; numbers, sizes and times as people read them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 100  # of tables where standard output is no terminal


def console(stderr: bool = False) -> Console:
    """As wide as the terminal, or as `PLAIN_WIDTH` where standard output is none."""
    return Console(stderr=stderr, highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def table_of(*headings: str, left: Sequence[str] = ()) -> Table:
    """A plain table: words in the first column and in those of `left`, numbers in the others."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index and heading not in left else "left", overflow="fold")
    return table


def print_line(to: Console, *parts: str, style: str = "") -> None:
    """The parts that are not empty, separated by semicolons, as one line, which a log keeps whole."""
    to.print(Text("; ".join(part for part in parts if part), style=style), soft_wrap=True)


def human_bytes(count: float) -> str:
    """999 bytes, 1.5 kB, 38.0 MB, 1.2 GB: powers of 1,000."""
    return decimal(round(count))


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


def plural(count: int, noun: str, nouns: str = "") -> str:
    """1 seed, 2 seeds, 1,000 seeds. nouns: the plural where it is not the noun and an s."""
    return f"{count:,} {number_of(count, noun, nouns)}"


def number_of(count: int, noun: str, nouns: str = "") -> str:
    """The noun alone in the number of the count: seed, seeds."""
    return noun if count == 1 else nouns or f"{noun}s"
