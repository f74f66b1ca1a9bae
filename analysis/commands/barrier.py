"""`python -m analysis barrier RUN [TRIAL ...]`: errors on straight lines between networks of a run.

Between copies of a ticket (is the outcome of training decided at the rewind point, or after it?), between the ends of
consecutive levels, and between the dense network and the ticket.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from analysis.barriers.connections import connection_sentences
from analysis.barriers.jobs import Settings
from analysis.barriers.work import Choice, ConnectionsWork, CopiesWork, Work, work_of
from analysis.report.barriers import barrier_table, stable_sentences
from analysis.report.connections import connection_tables
from analysis.tables.run_plan import find_run
from analysis.tables.schema import Row
from analysis.text import console, print_line
from lth_trainable.errors import INTERRUPTED, OK, bad_value
from lth_trainable.options import parsed
from lth_trainable.quiet import ignore_torch_warnings


@dataclass(frozen=True, kw_only=True)
class BarrierOptions:
    """Linear-interpolation barriers: the error on the straight line between the weights of two networks of a run.

    copies: copies of a ticket, trained from its rewind point with different SGD noise, and copies of the dense network
    from the same point (Frankle et al., arXiv 1912.05671). levels: the ends of consecutive levels of a ticket (Paul et
    al., arXiv 2210.03044). dense: the dense network and the ticket. What is trained or measured is stored: a rerun
    repeats nothing, and more trials, points and order seeds can be added later. See docs/barrier.md.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    trials: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TRIAL ...")] = ()
    """Trials or groups of trials (names without the seed). Default: every group of tickets that can be measured."""
    between: Literal["copies", "levels", "dense"] = "copies"
    """The networks at the ends of a line: copies of a ticket, consecutive levels, or dense network and ticket."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """If no trial is named: the first N finished trials of each group."""
    order_seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="A B ...")] = Settings.order_seeds
    """Of copies: order seeds, one for each copy: order of the data, augmentation, dropout. Each pair gives a line."""
    points: Annotated[int, tyro.conf.arg(metavar="N")] = Settings.n_points
    """Number of networks on a line, including its ends."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with the files of data sets."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to train and measure. Default: on the kind of device the ticket was trained on."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only print the cost; train nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, cost, rows, what they say, files."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How lines are shown. key: of the sentences in the JSON object. figure: its name in the gallery."""

    tables: Callable[[Sequence[Row]], Sequence[Table]]
    sentences: Callable[[Sequence[Row]], Sequence[str]]
    key: str
    figure: str


SHOWN = {
    "copies": Shown(
        tables=lambda rows: [barrier_table(rows)], sentences=stable_sentences, key="stable", figure="barriers"
    ),
    "levels": Shown(
        tables=connection_tables, sentences=connection_sentences, key="connected", figure="levels_barriers"
    ),
    "dense": Shown(tables=connection_tables, sentences=connection_sentences, key="connected", figure="dense_barriers"),
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code. Raises `UserError` for bad input."""
    ignore_torch_warnings()
    options = parsed(BarrierOptions, prog="python -m analysis barrier", args=arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("interrupted; finished networks are kept: the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def work_of_options(options: BarrierOptions) -> CopiesWork | ConnectionsWork:
    """The lines that these options choose. Nothing is written. Raises `UserError`."""
    settings = Settings(
        order_seeds=options.order_seeds, n_points=options.points, data_root=options.data_root, device=options.device
    )
    if options.seeds < 1:
        raise bad_value("seeds", options.seeds, "at least 1")
    store, run = find_run(options.run)
    return work_of(
        Choice(
            store=store, run=run, between=options.between, names=options.trials, seeds=options.seeds, settings=settings
        )
    )


def _run(options: BarrierOptions) -> int:
    work = work_of_options(options)
    to = announce(options, work)
    return show_cost(options, work) if options.dry_run else measure(options, work, to)


def announce(options: BarrierOptions, work: Work) -> Console:
    """Print notes and cost; returns where else to print what is not for `--json`."""
    to = console(stderr=options.json)
    for line in (*(f"note: {note}" for note in work.notes), work.cost_line()):
        print_line(to, line)
    return to


def show_cost(options: BarrierOptions, work: Work) -> int:
    """For `--dry-run`: with `--json` the cost as an object; else it has been printed already."""
    if options.json:
        print(json.dumps({"run": options.run, "cost": asdict(work.cost)}))
    return OK


def measure(options: BarrierOptions, work: Work, to: Console) -> int:
    """Measure the lines that are missing, write table and figure, print what they say; returns the exit code."""
    cost, shown = work.cost, SHOWN[options.between]
    with Progress(console=Console(stderr=True), transient=True, disable=not cost.lines_left) as progress:
        task = progress.add_task("networks", total=work.n_jobs)
        rows = work.do(lambda: progress.advance(task))
    work.write_table()
    files = _draw(options, work, rows)
    if options.json:
        found = {"run": options.run, "cost": asdict(cost), "rows": rows, shown.key: shown.sentences(rows)}
        print(json.dumps({**found, "files": files}, allow_nan=False))
        return OK
    for table in shown.tables(rows):
        to.print()
        to.print(table)
    to.print()
    for sentence in shown.sentences(rows):
        to.print(sentence, soft_wrap=not to.is_terminal)
    for what, path in files.items():
        print_line(to, f"{what}  {path}")
    return OK


def _draw(options: BarrierOptions, work: Work, rows: Sequence[Row]) -> dict[str, str]:
    """Write the figure; returns the paths of table and figure, relative to the run as it was typed."""
    from analysis.figures.gallery import line_figure  # matplotlib takes a second to import
    from analysis.figures.style import to_svg

    name, path = SHOWN[options.between].figure, options.run.rstrip("/")
    work.choice.store.write(f"{work.choice.run}/analysis/{name}.svg", to_svg(line_figure(name, rows)))
    return {"table": f"{path}/analysis/{work.kind.table}.parquet", "figure": f"{path}/analysis/{name}.svg"}
