"""`python -m analysis merge RUN1 RUN2 ... --into RUN`: make one run of runs that were made in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from analysis.gather import gather_run
from analysis.merging.merge import merge
from analysis.report.summary import summary
from analysis.report.terminal import show
from analysis.text import console, plural, print_line
from lth_trainable.errors import OK
from lth_trainable.options import parsed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Merge runs that were made in pieces, or on several machines, into one run, and judge it as one.

    They may differ in seeds or in tickets; everything else must have been planned alike. A trial that two of them have
    must have the same bytes in both. Records and states are copied; the pieces stay as they are. The same command again
    goes on after an interruption, and adds what the pieces have got since. See docs/results.md.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """The folders or URIs of two or more runs."""
    into: Annotated[str, tyro.conf.arg(metavar="RUN")]
    """Folder or URI of the merged run: a new one, or one that was merged before."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, merged (trials and states copied, notes), answer, verdicts, files."""


def main(arguments: Sequence[str]) -> int:
    """Merge, gather and print; returns the exit code. Raises `UserError` for bad input; then nothing is written."""
    options = parsed(Options, prog="python -m analysis merge", args=arguments)
    done = merge(options.runs, options.into)
    frames = gather_run(done.store, done.run)
    if options.json:
        copied = {"trials": done.n_trials, "states": done.n_states, "notes": list(done.notes)}
        print(json.dumps({**summary(frames, done.shown), "merged": copied}, allow_nan=False))
        return OK
    to = console()
    for note in done.notes:
        print_line(to, f"note: {note}", style="yellow")
    print_line(
        to, f"merged {plural(len(options.runs), 'run')}: {plural(done.n_trials, 'trial')} and "
        f"{plural(done.n_states, 'state')} copied"
    )  # fmt: skip
    show(to, frames, done.shown)
    return OK
