"""`python -m analysis barrier RUN [TRIAL ...]`: is the outcome of training decided at the rewind point, or after it?"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from analysis.barriers.copies import BarrierJob, Cost, Settings, cost_of, do_all, write_barriers
from analysis.barriers.targets import choose
from analysis.report.barriers import barrier_table, stable_sentences
from analysis.tables.run_plan import find_run, read_plan
from analysis.tables.schema import Row
from analysis.text import console, duration, plural, print_line
from lth_trainable.errors import INTERRUPTED, OK, bad_value
from lth_trainable.store.store import Store


@dataclass(frozen=True, kw_only=True)
class BarrierOptions:
    """Linear-interpolation barriers: train copies of a ticket from its rewind point with different SGD noise, and
    measure the error on the straight line between their weights (Frankle et al., arXiv 1912.05671).

    The dense network of the same seed is measured from the same point. Copies and lines are stored below RUN/barriers:
    a rerun trains nothing twice, and more trials, points and order seeds can be added later. See docs/barrier.md.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    trials: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TRIAL ...")] = ()
    """Trials or groups of trials (names without the seed). Default: every group of rewound tickets."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """If no trial is named: the first N finished trials of each group."""
    order_seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="A B ...")] = Settings.order_seeds
    """Order seeds, one for each copy: order of the data, augmentation, dropout. Each pair of them gives a line."""
    points: Annotated[int, tyro.conf.arg(metavar="N")] = Settings.n_points
    """Number of networks on a line, including its ends."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with the files of data sets."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to train the copies. Default: on the kind of device the ticket was trained on."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only print the cost; train nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, cost, rows, stable, files."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code. Raises `UserError` for bad input."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    options = tyro.cli(BarrierOptions, prog="python -m analysis barrier", args=arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("interrupted; finished copies are kept: the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def _run(options: BarrierOptions) -> int:
    settings = Settings(
        order_seeds=options.order_seeds, n_points=options.points, data_root=options.data_root, device=options.device
    )
    if options.seeds < 1:
        raise bad_value("seeds", options.seeds, "at least 1")
    store, run = find_run(options.run)
    plan = read_plan(store, run)
    choice = choose(store, run, plan, options.trials, options.seeds)
    jobs = [BarrierJob(store, run, target, settings) for target in choice.targets]
    cost = cost_of(jobs)
    to = console(stderr=options.json)
    for line in (*(f"note: {note}" for note in choice.notes), cost_line(cost, settings)):
        print_line(to, line)
    if options.dry_run:
        if options.json:
            print(json.dumps({"run": options.run, "cost": asdict(cost)}))
        return OK
    rows = _do(jobs, cost)
    write_barriers(store, run, plan)
    files = _draw(store, run, options.run.rstrip("/"), rows)
    if options.json:
        found = {"run": options.run, "cost": asdict(cost), "rows": rows, "stable": stable_sentences(rows)}
        print(json.dumps({**found, "files": files}, allow_nan=False))
    else:
        _show(to, rows, files)
    return OK


def cost_line(cost: Cost, settings: Settings) -> str:
    """The cost in words: networks, lines, copies to train, epochs, time."""
    networks = f"{plural(cost.tickets, 'ticket')} and {plural(cost.dense, 'point')} of dense networks"
    lines = f"{plural(cost.lines, 'line')} of {settings.n_points} points"
    if not cost.lines_left:
        return f"{networks}: {lines}, all of them stored"
    stored = f" ({cost.lines - cost.lines_left} of them stored)" if cost.lines_left < cost.lines else ""
    return (
        f"{networks}: {lines}{stored}; {plural(cost.copies_left, 'copy', 'copies')} to train, "
        f"{plural(cost.epochs, 'epoch')}, about {duration(math.ceil(cost.seconds))}"
    )


def _do(jobs: Sequence[BarrierJob], cost: Cost) -> list[Row]:
    with Progress(console=Console(stderr=True), transient=True, disable=not cost.lines_left) as progress:
        task = progress.add_task("networks", total=len(jobs))
        return do_all(jobs, lambda: progress.advance(task))


def _draw(store: Store, run: str, path: str, rows: Sequence[Row]) -> dict[str, str]:
    """Write the figure; returns the paths of table and figure, relative to the run as it was typed."""
    from analysis.figures.barriers import barrier_figure  # matplotlib takes a second to import
    from analysis.figures.style import to_svg

    store.write(f"{run}/analysis/barriers.svg", to_svg(barrier_figure(rows)))
    return {"table": f"{path}/analysis/barriers.parquet", "figure": f"{path}/analysis/barriers.svg"}


def _show(to: Console, rows: Sequence[Row], files: dict[str, str]) -> None:
    to.print()
    to.print(barrier_table(rows))
    to.print()
    for sentence in stable_sentences(rows):
        to.print(sentence, soft_wrap=not to.is_terminal)
    for what, path in files.items():
        print_line(to, f"{what}  {path}")
