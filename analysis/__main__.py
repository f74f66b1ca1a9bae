"""`python -m analysis RUN`: gather the results of a run again, rewrite its tables and report, print the verdicts.

    python -m analysis RUN [--json] [--details] [--geometry auto|all|none]
    python -m analysis RUN --exclude TRIAL ... --reason TEXT    take trials out of the verdict
    python -m analysis RUN --include TRIAL ...                  take them back
    python -m analysis COMMAND ...                              another command, see `COMMANDS`

Exit code: 0, or 2 for bad input, such as a RUN that is not a run.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from analysis.adoption.plan import find_or_adopt
from analysis.gather import gather_run
from analysis.report.lines import every_row, folded
from analysis.report.summary import summary
from analysis.report.terminal import show
from analysis.run import unpaired
from analysis.tables.exclusions import change_exclusions
from analysis.tables.index import Geometry
from analysis.text import console, print_line
from lth_trainable.errors import OK, command_line
from lth_trainable.options import parsed


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of its own. module: has `main(arguments) -> exit code`, which raises `UserError` for bad input.
    text: what it does."""

    module: str
    text: str


# Not tyro's sub-commands: they would import the modules of all commands (torch, matplotlib) for each of them, and a
# parser with sub-commands does not take `python -m analysis RUN`.
COMMANDS: dict[str, Command] = {
    "pack": Command(module="analysis.commands.pack", text="pack a run into one file for a colleague"),
    "results": Command(module="analysis.commands.results", text="keep the results of a finished run, to commit them"),
    "barrier": Command(
        module="analysis.commands.barrier", text="measure the error between copies, levels, or dense and ticket"
    ),
    "supermasks": Command(
        module="analysis.commands.supermasks", text="measure untrained networks under the masks of a run"
    ),
    "figures": Command(module="analysis.commands.figures", text="write figures for a paper (pdf, svg or png)"),
    "table": Command(module="analysis.commands.table", text="print the verdicts for a paper (latex, csv, markdown)"),
    "predictions": Command(
        module="analysis.commands.predictions", text="write which images each network has right (Parquet)"
    ),
    "compare": Command(module="analysis.commands.compare", text="compare two runs (recipes, criteria, code versions)"),
    "merge": Command(module="analysis.commands.merge", text="make one run of runs that were made in pieces"),
    "published": Command(
        module="analysis.commands.published", text="hold the figures that papers have published against a run"
    ),
    "adopt": Command(module="analysis.commands.adopt", text="judge trials of run_trial or of your own ray.tune.Tuner"),
    "export": Command(module="analysis.commands.export", text="write tickets for torch alone, or for the Hub"),
}


GEOMETRY_HELP = (
    "Whether to compare masks of tickets (overlaps) and signs of weights (signs): auto (if there is little to read), "
    "all (always) or none. Default: as last time, auto the first time."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Gather the results of a run again: rewrite its tables, verdicts and report, and print the verdicts.

    Nothing is trained, and only records that changed since the last gather are read. Files: RUN/analysis/*.parquet
    (docs/tables.md) and RUN/report.html.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, answer, trials by status, verdicts, files."""
    details: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print every row of the verdicts: undecided ones that follow each other share a line otherwise."""
    exclude: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TRIAL ...")] = ()
    """Trials to leave out of the verdicts; needs --reason. Their records and rows stay, with the status excluded."""
    reason: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Why they are excluded. The reason is shown beside them."""
    include: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TRIAL ...")] = ()
    """Excluded trials to include again."""
    geometry: Annotated[Geometry | None, tyro.conf.arg(metavar="auto|all|none", help=GEOMETRY_HELP)] = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return command_line(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        return int(importlib.import_module(COMMANDS[arguments[0]].module).main(arguments[1:]))
    return _gather(arguments)


def _gather(arguments: Sequence[str]) -> int:
    options = parsed(Options, prog="python -m analysis", description=_description(), args=arguments)
    opened = find_or_adopt(options.run)
    run = opened.shown
    if options.exclude or options.include or options.reason is not None:
        change_exclusions(run, exclude=options.exclude, include=options.include, reason=options.reason)
    frames = gather_run(*opened.of, options.geometry)
    if options.json:
        print(json.dumps(summary(frames, run), allow_nan=False))
    else:
        show(console(), frames, run, every_row if options.details else folded)
        for note in () if opened.notes is None else (*opened.notes, *unpaired(frames)):
            print_line(console(), f"note: {note}", style="yellow")
    return OK


def _description() -> str:
    others = "\n".join(f"    python -m analysis {name:<9} ...  {command.text}" for name, command in COMMANDS.items())
    return (
        f"{inspect.getdoc(Options)}\n\nOther commands, each with its own --help (if a run has the name of a command, "
        f"write ./NAME):\n\n{others}"
    )


if __name__ == "__main__":
    signals.run(main)
