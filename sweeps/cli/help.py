"""The short help of a command: its most used flags in groups, and examples. All flags: `--help-all`."""

from __future__ import annotations

import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from analysis.text import console
from lth_trainable import signals

SHORT, ALL, COMPLETION = ("-h", "--help"), "--help-all", "--tyro-print-completion"


@dataclass(frozen=True, kw_only=True)
class Help:
    """What the short help shows. argument: its positional one. groups: names of options by the title of their group."""

    module: str
    argument: str
    about: str
    groups: Mapping[str, Sequence[str]]
    examples: Mapping[str, str]

    @property
    def program(self) -> str:
        """How the command was called: by the name of its script, such as `lth-grid`, or as `python -m MODULE`."""
        called = Path(sys.argv[0]).name
        return called if called.startswith("lth-") else f"python -m {self.module}"


def helped(argv: list[str], text: Help, options: Sequence[type]) -> list[str]:
    """Show the short help and exit if the command line asks for it; `--help-all` becomes tyro's own `--help`.

    options: the dataclasses with the flags, each annotated with `tyro.conf.arg`.
    """
    if any(word in (*SHORT, ALL) or word.startswith(COMPLETION) for word in argv):
        signals.only_shows()
    if any(word in SHORT for word in argv):
        show(text, options)
        sys.exit(0)
    return ["--help" if word == ALL else word for word in argv]


def show(text: Help, options: Sequence[type]) -> None:
    """Print the short help."""
    known = {name: note for cls in options for name, note in _notes(cls).items()}
    to = console()
    to.print(f"usage: {text.program} [{text.argument}] [flags]\n\n{text.about}\n", markup=False, highlight=False)
    for title, flags in text.groups.items():
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=title, title_justify="left",
                      title_style="bold")  # fmt: skip
        table.add_column(min_width=24, no_wrap=True)
        table.add_column(ratio=1)
        for flag in flags:
            note = known[flag]
            table.add_row(note.metavar if note.metavar == text.argument else _label(flag, note), note.help)
        to.print(table)
        to.print()
    to.print("examples", style="bold")
    for command, what in text.examples.items():
        command = command.replace(f"python -m {text.module}", text.program)
        to.print(f"  {command}\n      {what}", markup=False, highlight=False, soft_wrap=True)
    to.print(f"\nAll flags, with defaults: {ALL}. Exit codes and more: docs/command-line.md", markup=False)


def _label(flag: str, note: typing.Any) -> str:
    metavar = f" {note.metavar}" if note.metavar else ""
    return f"--{flag.replace('_', '-')}{metavar}"


def _notes(cls: type) -> dict[str, typing.Any]:
    """What `tyro.conf.arg` says of each field of a dataclass, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: note for name, notes in found.items() for note in notes if hasattr(note, "metavar")}
