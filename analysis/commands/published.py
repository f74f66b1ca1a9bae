"""`python -m analysis published RUN`: hold the figures that papers have published against a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from analysis.gather import gather_run
from analysis.published.claims import Claim, claims_of
from analysis.published.holding import hold
from analysis.published.points import points
from analysis.report.published import how_it_was_held, said, show_published
from analysis.tables.parquet import Frames, load
from analysis.tables.run_plan import KEPT, PUBLISHED, RunPlan, find_run, read_plan
from analysis.text import console, print_line, table_of
from lth_trainable.errors import OK, UserError, bad_value
from lth_trainable.options import parsed

FIXED = "Claims and margins were fixed in the plan, before the first trial."
AFTERWARDS = (
    "These margins were not fixed before the run, so nothing is written: a recipe fixes them under `published`."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Hold published figures against a run: agrees, disagrees or undecided, with the difference and its interval.

    The claims, and the margin within which each agrees, are those that the run's recipe fixed before the first trial.
    The run is gathered first, unless it is kept in results/. What comes out is its table
    RUN/analysis/published.parquet and a part of its report.
    docs/results.md says how they are judged.
    """

    run: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """The folder of a run, such as runs/digits, or its URI."""
    margin: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLAIM=MARGIN ...")] = ()
    """For a run whose plan fixes no claims: those to hold against it, with margins chosen now, which is said."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print all published figures that are known, without a run."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, fixed (whether the margins were fixed before the run), rows."""


def main(arguments: Sequence[str]) -> int:
    """Hold and print; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis published", args=arguments)
    if options.list:
        return _list(options)
    if options.run is None:
        raise bad_value("RUN", None, "the folder of a run, or --list")
    store, run = find_run(options.run)
    plan = read_plan(store, run)
    if plan.published and options.margin:
        raise UserError(
            f"--margin: found margins, but the plan of {options.run} has fixed its own before the first trial; leave "
            "--margin out"
        )
    if not plan.published and not options.margin:
        raise UserError(
            f"{options.run}: found no claims in its plan; expected some, which a recipe fixes under `published` before "
            "the first trial; --margin CLAIM=MARGIN holds one against it all the same, --list shows them all"
        )
    chosen = claims_of("--margin", _margins(options.margin))
    frames = load(options.run) if store.exists(f"{run}/{KEPT}") else gather_run(store, run)
    rows = [{**row, "run": run} for row in _rows(frames, plan, chosen)]
    if options.json:
        print(json.dumps({"run": options.run, "fixed": not chosen, "rows": rows}, allow_nan=False))
        return OK
    to = console()
    show_published(to, rows)
    print_line(to, f"{said(rows)}.")
    print_line(to, f"{AFTERWARDS if chosen else FIXED} {how_it_was_held(rows)}")
    return OK


def _rows(frames: Frames, plan: RunPlan, chosen: Sequence[Claim]) -> Sequence[dict[str, Any]]:
    return (
        hold(chosen, frames.rows("trials"), plan.rule, frames.rows("supermasks")) if chosen else frames.rows(PUBLISHED)
    )


def _margins(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, margin = text.rpartition("=")
        if name in found:
            raise UserError(f"--margin: found two margins for {name}; expected one for each claim; leave one out")
        try:
            found[name] = float(margin)
        except ValueError:
            name = ""
        if not name:
            raise bad_value("--margin", text, "CLAIM=MARGIN, such as lenet_early_stop_21=10")
    return found


def _list(options: Options) -> int:
    if options.json:
        print(json.dumps([vars(point) for point in points().values()], allow_nan=False))
        return OK
    headings = ("claim", "paper", "published", "margin in", "what it says")
    table = table_of(*headings, left=("paper", "margin in", "what it says"))
    for point in points().values():
        table.add_row(point.claim, point.paper, f"{point.value:g} {point.unit}", point.margin_unit, point.sentence)
    console().print(table)
    return OK
