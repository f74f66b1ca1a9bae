"""`python -m analysis supermasks RUN`: accuracies of untrained networks under the masks that a run has found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import track

from analysis.report.supermasks import as_json, tables
from analysis.supermasks.choice import Chosen, choose
from analysis.supermasks.measuring import OF_THE_PAPER, Settings, measured
from analysis.supermasks.summary import arms
from analysis.supermasks.words import sentences
from analysis.tables import schema
from analysis.tables.index import write_noted
from analysis.tables.run_plan import find_run, read_plan
from analysis.tables.schema import Row
from analysis.text import console, print_line
from lth_trainable.errors import OK
from lth_trainable.options import parsed
from lth_trainable.quiet import ignore_torch_warnings
from lth_trainable.store.store import Store


@dataclass(frozen=True, kw_only=True)
class SupermaskOptions:
    """Supermasks: what an untrained network gets right under a mask alone (Zhou et al., arXiv 1905.01067).

    Masks are found from each finished dense network in one shot, by every criterion of the paper, and over rounds from
    the tickets of the run. Each is laid over the initial weights, and over constants with their signs, beside random
    masks with as many weights in each layer. Nothing is trained. See docs/supermasks.md.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/mnist_supermask, or its URI."""
    criteria: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = OF_THE_PAPER
    """Criteria of the one-shot masks."""
    rounds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = Settings.rounds
    """One-shot masks remove as many weights as this many rounds of pruning at the rates of the paper."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with the files of data sets."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to measure. Default: on the kind of device the networks were trained on."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, arms, what they say, files."""


def main(arguments: Sequence[str]) -> int:
    """Measure, write the table and the figure, print what they say; returns the exit code. Raises `UserError`."""
    ignore_torch_warnings()
    options = parsed(SupermaskOptions, prog="python -m analysis supermasks", args=arguments)
    settings = Settings(
        criteria=options.criteria, rounds=options.rounds, data_root=options.data_root, device=options.device
    )
    store, run = find_run(options.run)
    chosen = choose(store, run, read_plan(store, run))
    to = console(stderr=options.json)
    for note in chosen.notes:
        print_line(to, f"note: {note}")
    rows = _measure(store, run, chosen, settings)
    write_noted(store, run, "supermasks", schema.table("supermasks", rows))
    files = _draw(store, run, options.run.rstrip("/"), rows)
    found = arms(rows)
    if options.json:
        about = {"run": options.run, "arms": [as_json(arm) for arm in found], "says": sentences(found)}
        print(json.dumps({**about, "files": files}, allow_nan=False))
        return OK
    for table in tables(found):
        to.print()
        to.print(table)
    to.print()
    for sentence in sentences(found):
        to.print(sentence, soft_wrap=not to.is_terminal)
    for what, path in files.items():
        print_line(to, f"{what}  {path}")
    return OK


def _measure(store: Store, run: str, chosen: Chosen, settings: Settings) -> list[Row]:
    shown = track(chosen.networks, "networks", console=Console(stderr=True), transient=True)
    return [row for seeded in shown for row in measured(store, run, seeded, settings)]


def _draw(store: Store, run: str, path: str, rows: Sequence[Row]) -> dict[str, str]:
    """Write the figure; returns the paths of table and figure, relative to the run as it was typed."""
    from analysis.figures.style import to_svg  # matplotlib takes a second to import
    from analysis.figures.supermasks import supermask_figure

    store.write(f"{run}/analysis/supermasks.svg", to_svg(supermask_figure(rows)))
    return {"table": f"{path}/analysis/supermasks.parquet", "figure": f"{path}/analysis/supermasks.svg"}
