"""`python -m analysis adopt FOLDER`: judge trials that no sweep has planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from analysis.adopt import adopt
from analysis.report.terminal import show
from analysis.tables.run_plan import ENDPOINTS
from analysis.text import console, print_line
from lth_trainable.errors import OK
from lth_trainable.options import parsed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a run of trials that no sweep has planned: those of run_trial, or of your own ray.tune.Tuner.

    Tables, verdicts and report are made, and every other command takes the folder afterwards. Each ticket is compared
    with the dense network of the same fields and seed, if it is among the trials.
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A folder that run_trial has written to, such as runs/alone; its store; or an experiment of Ray Tune."""
    claim: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """The question, in one sentence."""
    endpoint: Annotated[str | None, tyro.conf.arg(metavar="|".join(ENDPOINTS))] = None
    """What decides. Default: test_accuracy."""
    margin_pp: Annotated[float | None, tyro.conf.arg(metavar="PP")] = None
    """Margin of "matches", in percentage points. Default: 0.5."""
    alpha: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """One-sided level of each test. Default: 0.025."""


def main(arguments: Sequence[str]) -> int:
    """Adopt the trials and print the verdicts; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis adopt", args=arguments)
    run = adopt(
        options.folder, claim=options.claim, endpoint=options.endpoint, margin_pp=options.margin_pp,
        alpha=options.alpha,
    )  # fmt: skip
    to = console()
    show(to, run.frames, run.folder)
    for note in run.notes:
        print_line(to, f"note: {note}", style="yellow")
    return OK
