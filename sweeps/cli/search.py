"""A search from its options to its results: what the command and Python have in common."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import analysis
from analysis.tables.ahead import Ahead
from analysis.tables.index import write_noted
from analysis.tables.parquet import Frames
from analysis.tables.run_plan import read_plan
from analysis.tables.suggestions import DIVERGED, STATUSES, SUGGESTIONS, suggestion_table
from analysis.text import console, plural, table_of
from lth_trainable.spec.trial_spec import DataKey, TrialSpec
from lth_trainable.stacking.shape import OF_STEP
from sweeps.cli.confirm import confirm, distinct, knee
from sweeps.cli.job import Job, Setting, facts_of, open_run
from sweeps.cli.replicas import with_replicas
from sweeps.cli.search_options import SearchOptions
from sweeps.experiments.split_seeds import of_seed
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.fit_together import check_fit_together, check_network, keys_do_not_cover
from sweeps.planning.plan import Facts, make_plan
from sweeps.running.launch import Outcome
from sweeps.running.log_feed import Loggers
from sweeps.running.progress import Board
from sweeps.running.resources import Spent
from sweeps.running.submit import Where
from sweeps.runs.ledger import Ledger
from sweeps.runs.lock import RunLock
from sweeps.search.searches import GRID, OWN, Search

if TYPE_CHECKING:  # Optuna takes a second to import
    import optuna

    from sweeps.search.study import Study

SHOWN = 12  # suggestions in the table


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found. rows: of suggestions.parquet. study: what `optuna-dashboard` takes to open it."""

    outcome: Outcome
    rows: Sequence[Mapping[str, Any]]
    frames: Frames
    study: str
    summary: Mapping[str, Any]


def open_search(options: SearchOptions, setting: Setting, search: Search, command: Sequence[str]) -> Job:
    """The job of a search; nothing is written yet. command: as the user typed it. Raises `UserError`."""
    store, name = open_run(options, search.sweep.name)
    ledger = Ledger(store=store, run=name, plan=make_plan((), {}), facts={})
    setting = setting.compiling(setting.resources.compile)
    job = Job(console=console(), options=options, setting=setting, ledger=ledger, command=tuple(command))
    fixed = _fixed(search)
    if fixed is not None:
        check_network(fixed, options.data_root)
        for note in keys_do_not_cover([fixed]):
            job.say(f"note: {note}")
    return job


def _fixed(search: Search) -> TrialSpec | None:
    """The dense trial of a search whose data set and network are no axes: what is wrong with it is wrong with all."""
    names = ("dataset", "model", "split_seed", "image_size")
    if search.sampler == OWN or any(name in search.axes for name in names):
        return None
    base = {name: search.sweep.base[name] for name in names if name in search.sweep.base}
    return TrialSpec(control="dense", **of_seed(base, search.sweep.seeds[0]))


def _of_a_suggestion(ledger: Ledger, search: Search, facts: Callable[[DataKey], Facts]) -> Ledger:
    """The ledger with trials like those of a suggestion that can be trained together: its dense ones, of all seeds.

    Without any if suggestions differ in data or network: then trials of several shapes come one after another.
    """
    if _fixed(search) is None:
        return ledger
    base = {name: value for name, value in search.sweep.base.items() if name in (*OF_STEP, "lr", "validate_every")}
    specs = [TrialSpec(control="dense", **of_seed(base, seed)) for seed in search.sweep.seeds]
    of_data = {key: facts(key) for key in {spec.data_key for spec in specs}}
    return replace(ledger, plan=make_plan(specs, of_data), facts=of_data)


def carry_out_search(job: Job, options: SearchOptions, search: Search, study: optuna.Study | None = None) -> Found:
    """Get suggestions and train them until the study has enough, then gather and show the results.

    study: one that the user has made; None: the one that the options name.
    """
    started, ledger = time.monotonic(), job.ledger
    ledger.check_writable()
    spent = Spent()
    board = Board(planned=0, spent=spent)
    with RunLock(ledger.store, ledger.run, spent.now) as lock, contextlib.ExitStack() as open_:
        job = replace(job, health=lock.health)
        loggers = open_.enter_context(Loggers.open(options.log, ledger.store, ledger.run).running())
        if job.setting.where is Where.CONNECT:
            job = replace(job, cluster=open_.enter_context(job.connected()))
        ahead = Ahead(store=ledger.store, run=ledger.run)
        outcome, rows, frames, used = _search(job, options, search, study, spent, board, loggers, ahead)
        job.conclude(loggers, frames)
    for note in loggers.notes:
        job.say(f"note: {note}", "yellow")
    done, statuses = _n_finished(rows), [row["status"] for row in rows if row["on_the_way_of"] is None]
    planned = done if used.is_exhausted else max(search.suggestions, done)
    summary = {
        "run": ledger.path, "suggestions": search.suggestions, "planned": planned, "done": done,
        "by_status": {status: statuses.count(status) for status in STATUSES},
        "front": [_plain(row, search) for row in rows if row["on_front"]], "trials": board.planned,
        "failed": len(outcome.failures), "epochs_trained": outcome.epochs, "stopped_by": outcome.stopped_by,
        "wall_s": round(time.monotonic() - started, 2),
    }  # fmt: skip
    return Found(outcome=outcome, rows=rows, frames=frames, study=used.uri, summary=summary)


def _search(
    job: Job, options: SearchOptions, search: Search, given: optuna.Study | None, spent: Spent, board: Board,
    loggers: Loggers, ahead: Ahead,
) -> tuple[Outcome, list[dict[str, Any]], Frames, Study]:  # fmt: skip
    from sweeps.search.study import Study  # Optuna and Ray take a second
    from sweeps.search.suggestions import Suggestions

    ledger = job.ledger
    study = Study(search, ledger.store, ledger.run, options.study if given is None else given)

    @functools.cache
    def facts(of: DataKey) -> Facts:
        return facts_of(of, options.data_root)

    def facts_of_spec(spec: TrialSpec) -> Facts:
        check_fit_together([spec], options.data_root)
        return facts(spec.data_key)

    if options.retry_failed and (again := study.ask_again()):
        job.say(f"{again} failed suggestions are tried again")
    source = Suggestions(study, search, ledger, facts_of_spec, job.command, board, retry=options.retry_failed)
    job = with_replicas(job, _of_a_suggestion(ledger, search, facts), ())
    replicas = job.setting.resources.replicas
    dispatcher = Dispatcher(ledger.plan, (), (), job.slots, source.rank_of, replicas=replicas)
    axes = "; ".join(f"{field} {axis}" for field, axis in search.axes.items())
    points = (
        f"the {search.suggestions} points of the grid"
        if search.sampler == GRID
        else f"{search.suggestions} suggestions"
    )
    job.say(f"{search.sweep.claim}\n{points} over {axes}  ->  {ledger.path}")
    for note in study.notes:
        job.say(f"note: {note}", "yellow")
    with ahead.reading():
        outcome = job.launch(dispatcher, spent, board, loggers, ahead, source)
    for note in (*(f"damaged, trained again: {report}" for report in source.notes), *outcome.notes):
        job.say(f"note: {note}", "yellow")
    rows, frames = _conclude(job, options, study, search, ahead)
    study.close()
    return outcome, rows, frames, study


def _conclude(
    job: Job, options: SearchOptions, study: Study, search: Search, ahead: Ahead
) -> tuple[list[dict[str, Any]], Frames]:
    """Gather the results, write the suggestions and their figure, and show the best."""
    from analysis.figures.pareto import pareto_figure
    from analysis.figures.style import WRITERS  # matplotlib takes a second to import
    from analysis.report.html import report_bytes, write_report
    from sweeps.search.rows import rows_of

    store, run = job.ledger.store, job.ledger.run
    frames = analysis.gather(job.ledger.path, early=ahead.found)
    trials = {row["trial"]: row for row in frames.rows("trials")}
    rows = rows_of(study, search, trials)
    write_noted(store, run, SUGGESTIONS, suggestion_table(rows))
    write_report(store, run, report_bytes(store, run, frames, read_plan(store, run)))  # again, now with the front
    for kind in ("svg", "png"):
        store.write(f"{run}/analysis/pareto.{kind}", WRITERS[kind](pareto_figure(rows)))
    _show(job, options, rows, search, study)
    return rows, frames


def _show(job: Job, options: SearchOptions, rows: Sequence[Mapping[str, Any]], search: Search, study: Study) -> None:
    best = sorted((row for row in rows if row["on_front"]), key=lambda row: row["sparsity_pct"])
    axes = [name for name in search.axes if name != "target_sparsity_pct"]
    headings = [name.removesuffix("_pct").replace("_", " ") for name in axes]
    table = table_of("suggestion", "sparsity", *headings, "epochs", "validation", "test", "dense, test", left=headings)
    for row in distinct(best)[:SHOWN]:
        cells = [_cell(row[name]) for name in axes]
        table.add_row(
            str(row["suggestion"]), f"{row['sparsity_pct']:.2f} %", *cells, str(row["epochs_alone"]),
            *(_percent(row[name]) for name in ("valid_accuracy", "test_accuracy", "dense_test_accuracy")),
        )  # fmt: skip
    on_way = sum(row["on_the_way_of"] is not None for row in rows)
    if best:
        kind = "the best" if len(search.objectives) == 1 else "those that no other beats in every objective"
        levels = f" and {on_way} intermediate levels" if on_way else ""
        seeds = len(search.sweep.seeds)
        job.say(f"\nof {_n_finished(rows)} suggestions{levels}, {kind} (mean of {seeds} seeds, chosen on validation):")
        job.console.print(table)
        job.say("\nthe best of many on these seeds looks better than it is: confirm it on other seeds,")
        _show_confirm(job, options, best, search)
    else:
        job.say("no suggestion is done yet", "yellow")
    lost = [row for row in rows if row["status"] == DIVERGED]
    if lost:
        job.say(
            f"{plural(len(lost), 'suggestion')} diverged: the loss of a ticket was not finite; they count, and are not "
            "on the front; a smaller learning rate may help",
            "yellow",
        )
    run = job.ledger.path
    job.say(f"figure  {run}/analysis/pareto.svg\ntables  {run}/analysis/suggestions.parquet and the tables of the run")
    job.say(f"study   {'optuna-dashboard' if study.can_be_opened else 'in'} {study.uri}")


def _show_confirm(job: Job, options: SearchOptions, best: Sequence[Mapping[str, Any]], search: Search) -> None:
    """The command that trains what was found on other seeds: the knee of the front, or all of it."""
    front = distinct(best)
    if len(front) == 1:
        job.say(f"  {confirm(front, search, options)[0]}")
    elif options.confirm == "all":
        job.say(f"all {len(front)} points of the front, in one run:")
        job.say("  " + " &&\n  ".join(confirm(front, search, options)))
    else:
        row, bends = knee(front, search)
        what = (
            "its knee, where little more can be had of one objective without losing much of another"
            if bends
            else "its most accurate point, since it has no knee"
        )
        job.say(
            f"for instance {what}: suggestion {row['suggestion']}, {_percent(row['valid_accuracy'])} at "
            f"{row['sparsity_pct']:.2f} % sparsity\n  {confirm([row], search, options)[0]}\n"
            f"--confirm all shows the commands for all {len(front)} points of the front"
        )


def _n_finished(rows: Sequence[Mapping[str, Any]]) -> int:
    """Number of suggestions with a result, without those that are a level of another."""
    return sum(row["status"] in ("done", "stopped", DIVERGED) and row["on_the_way_of"] is None for row in rows)


def _plain(row: Mapping[str, Any], search: Search) -> dict[str, Any]:
    names = ("suggestion", "sparsity_pct", "valid_accuracy", "test_accuracy", "epochs_alone", *search.axes)
    return {name: row[name] for name in names}


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"
