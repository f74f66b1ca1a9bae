"""Show what each trial of a run is doing or why it failed; with TRIAL, everything about one trial.

    python -m sweeps.status RUN [TRIAL] [--json]

It only reads the files of the run and its states, so it works while a sweep runs and also after a kill. Exit code: 0,
or 2 for bad input.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console

from analysis.labels import group_name, ladder_name, replicate_fields
from analysis.text import console, duration, print_line, table_of
from lth_trainable.collector import no_garbage_collection
from lth_trainable.errors import OK, UserError, command_line
from lth_trainable.options import parsed
from sweeps.runs.survey import Survey, read_survey
from sweeps.runs.trial_report import about_trial, find_trial, show_trial

STATUSES = ("done", "diverged", "running", "failed", "damaged", "held back", "not started")
GROUPS = 30  # rows of the table; with more groups, ladders are shown


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show what each trial of a run is doing or why it failed; with TRIAL, everything about one trial."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="path of the run", metavar="RUN")]
    trial: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(help="name of a trial, or part of it", metavar="TRIAL")
    ] = None
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object instead of tables")] = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command_line(
        lambda: _run(parsed(Options, prog="python -m sweeps.status", args=argv, config=(tyro.conf.FlagCreatePairsOff,)))
    )


def _run(options: Options) -> int:
    try:
        with no_garbage_collection():
            _show(options, read_survey(options.run))
        return OK
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{options.run}: cannot be read ({error})") from error


def _show(options: Options, survey: Survey) -> None:
    report = about_run(survey) if options.trial is None else about_trial(survey, find_trial(survey, options.trial))
    if options.json:
        print(json.dumps(report))
    elif options.trial is None:
        _show_run(console(), options.run, report)
    else:
        show_trial(console(), report)


def about_run(survey: Survey) -> dict[str, Any]:
    """The run as a JSON object."""
    found = Counter(trial.status for trial in survey.statuses.values())
    return {
        "run": survey.run, "recipe": survey.content.get("recipe"), "claim": survey.content.get("claim"),
        "driver": survey.driver, "counts": {status: found[status] for status in STATUSES},
        "epochs": {"distinct": survey.total, "trained": survey.total - survey.left, "left": survey.left},
        "trials": [dict(vars(trial)) for trial in survey.statuses.values()],
    }  # fmt: skip


def _show_run(to: Console, path: str, report: Mapping[str, Any]) -> None:
    counts, epochs, trials = report["counts"], report["epochs"], report["trials"]
    print_line(to, f"{path}: {report['recipe']}. {report['claim'] or ''}")
    print_line(to, _driver_line(report["driver"]))
    listed = ", ".join(f"{n:,} {status}" for status, n in counts.items() if n) or "none"
    print_line(to, f"{len(trials):,} trials: {listed}")
    print_line(
        to, f"{epochs['distinct']:,} epochs: {epochs['trained']:,} in stored states, {epochs['left']:,} to train"
    )
    rows, more = _folded(trials)
    shown = [status for status in STATUSES if counts[status]]
    table = table_of("trials", *shown)
    for name, found in rows:
        table.add_row(name, *(f"{found[status]:,}" if found[status] else "" for status in shown))
    to.print(table)
    if more:
        print_line(to, f"and {more:,} more groups (all trials with --json)")
    for trial in (trial for trial in trials if trial["status"] == "running"):
        print_line(to, f"running: {trial['trial']}: level {trial['level']}, epochs trained: {trial['epochs']:,}")
    for trial in (trial for trial in trials if trial["reason"]):
        print_line(to, f"{trial['status']}: {trial['trial']}: {trial['reason']}")


def _driver_line(driver: Mapping[str, Any] | None) -> str:
    if driver is None:
        return "no driver is running"
    who = f"process {driver['pid']} on {driver['host']}"
    if driver["alive"]:
        since = duration(time.time() - driver["started"])
        return f"a driver is running: {who}, for {since}, last heartbeat {duration(driver['silent_s'])} ago"
    running = ", ".join(driver["running"]) or "nothing"
    return f"no driver is running: last heartbeat of {who} {duration(driver['silent_s'])} ago, while running {running}"


def _folded(trials: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, Counter[str]]], int]:
    """Counts of statuses by group, or by ladder if there are too many groups; and how many are left out."""
    replicate = replicate_fields(trial["trial"] for trial in trials)
    for name_of in (group_name, ladder_name):
        groups: dict[str, Counter[str]] = defaultdict(Counter)
        for trial in trials:
            groups[name_of(trial["trial"], replicate)][trial["status"]] += 1
        if len(groups) <= GROUPS:
            break
    return list(groups.items())[:GROUPS], max(0, len(groups) - GROUPS)


if __name__ == "__main__":
    signals.run(main)
