"""How the commands print: the console, tables, lines, and how numbers, sizes, times and plurals are written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from lth_trainable.safe_text import one_line, printable

PLAIN_WIDTH = 100  # columns, if standard output is not a terminal


class PlainConsole(Console):
    """A console that takes no text for a command: not for Rich's markup, and not for one of the terminal's."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or `PLAIN_WIDTH` columns wide if standard output is not a terminal.

    In a notebook it prints plain text.
    """
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    if in_notebook():  # its FORCE_COLOR is for programs that know no better way
        return PlainConsole(
            stderr=stderr, highlight=False, width=width, force_jupyter=False, force_terminal=False, color_system=None
        )
    return PlainConsole(stderr=stderr, highlight=False, width=width)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return Console().is_jupyter


def table_of(*headings: str, left: Sequence[str] = ()) -> Table:
    """A table without lines. The first column and those in `left` are aligned left, the others right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index and heading not in left else "left", overflow="fold")
    return table


def print_line(to: Console, *parts: str, style: str = "") -> None:
    """Print the non-empty parts as one line, separated by semicolons. It is not wrapped, so logs keep it whole."""
    to.print(Text("; ".join(one_line(part) for part in parts if part), style=style), soft_wrap=True)


def human_bytes(count: float) -> str:
    """A size such as 999 bytes, 1.5 kB, 38.0 MB or 1.2 GB (powers of 1,000)."""
    return decimal(round(count))


def duration(seconds: float) -> str:
    """A time such as 0:07, 12:30 or 3:05:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def percent(value: float) -> str:
    """A percentage with two significant digits, and without decimals from 10 on: 100, 50, 36, 13, 7.8, 0.54."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def signed(value: float) -> str:
    """A number with its sign and two decimals, and a real minus sign, so that columns line up."""
    return f"{value:+.2f}".replace("-", "\u2212") if round(value, 2) else "0.00"


def number_range(low: str, high: str) -> str:
    """Two numbers as a range, or one if they are written alike: "64 to 92.22", "64"."""
    return low if low == high else f"{low} to {high}"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Count and noun: 1 seed, 2 seeds, 1,000 seeds. nouns: the plural, if it is not the noun with an s."""
    return f"{count:,} {number_of(count, noun, nouns)}"


def number_of(count: int, noun: str, nouns: str = "") -> str:
    """The noun without the count, as singular or plural: seed, seeds."""
    return noun if count == 1 else nouns or f"{noun}s"
