"""Carry out one round of a sweep: train the planned trials that are missing, gather the results, make the verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lth_trainable import signals
from lth_trainable.collector import no_garbage_collection
from lth_trainable.store.store import fingerprint_id, map_in_threads
from sweeps.cli.job import Job
from sweeps.cli.replicas import with_replicas
from sweeps.experiments.experiment import Experiment
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.work import work_left
from sweeps.running.launch import Outcome
from sweeps.running.log_feed import Loggers
from sweeps.running.progress import Board
from sweeps.running.resources import OutOfTime, Spent
from sweeps.running.submit import Where
from sweeps.runs.ledger import Ledger, Stock
from sweeps.runs.lock import RunLock

if TYPE_CHECKING:
    from analysis.tables.ahead import Ahead
    from analysis.tables.parquet import Frames

GATHERS = "what is trained is kept: run the same command again to gather the results"


@dataclass(frozen=True, kw_only=True)
class Round:
    """The outcome of one round. summary: as a JSON object, without the wall time."""

    summary: Mapping[str, Any]
    outcome: Outcome
    frames: Frames


def train_and_judge(job: Job, experiment: Experiment) -> Round:
    """Train the trials that are missing, then gather the results and make the verdicts."""
    import analysis
    from analysis.tables.ahead import Ahead

    ledger, spent = job.ledger, Spent()
    ahead = Ahead(store=ledger.store, run=ledger.run)
    board = Board(planned=len(ledger.plan.trials), spent=spent)
    with contextlib.ExitStack() as watched:
        with RunLock(ledger.store, ledger.run, spent.now) as lock, contextlib.ExitStack() as sharing:
            job = replace(job, health=lock.health)
            loggers = watched.enter_context(Loggers.open(job.options.log, ledger.store, ledger.run).running())
            if job.setting.where is Where.CONNECT:
                job = replace(job, cluster=sharing.enter_context(job.connected()))
            sharing.enter_context(ahead.reading())
            outcome = train(job, experiment, spent, board, loggers, ahead)
        with signals.keeping(GATHERS):
            frames = analysis.gather(ledger.path, early=ahead.found)
            job.conclude(loggers, frames)
    for note in loggers.notes:
        job.say(f"note: {note}", "yellow")
    planned = {trial.name for trial in ledger.plan.trials}
    done = [row for row in frames.rows("trials") if row["trial"] in planned and row["status"] in ("done", "diverged")]
    summary = {
        "run": ledger.path, "planned": board.planned, "done": len(done),
        "failed": len(outcome.failures), "skipped": board.skipped, "shared": spent.shared,
        "epochs_requested": ledger.plan.epochs_requested, "epochs_distinct": ledger.plan.epochs_distinct,
        "epochs_trained": outcome.epochs, "stopped_by": outcome.stopped_by,
        "verdicts": frames.rows("verdicts"),
    }  # fmt: skip
    return Round(summary=summary, outcome=outcome, frames=frames)


def train(job: Job, experiment: Experiment, spent: Spent, board: Board, loggers: Loggers, ahead: Ahead) -> Outcome:
    """Record the trials whose training is already stored, and train the rest."""
    try:
        with no_garbage_collection():
            job, dispatcher, failed = _take_up(job, experiment, spent, board, loggers, ahead)
    except OutOfTime:
        return Outcome(epochs=0, failures={}, interrupted=False, stopped_by="--max-hours")
    outcome = job.launch(dispatcher, spent, board, loggers, ahead)
    for note in outcome.notes:
        job.say(f"note: {note}", "yellow")
    return replace(outcome, failures={**failed, **outcome.failures})


def _take_up(
    job: Job, experiment: Experiment, spent: Spent, board: Board, loggers: Loggers, ahead: Ahead
) -> tuple[Job, Dispatcher, dict[str, str]]:
    """Record the trials whose training is already stored. Returns who trains next, and why others failed before.

    The job has the number of replicas, once it is chosen. Raises `OutOfTime`.
    """
    ledger = job.ledger
    stock = ledger.take_stock(repair=True)
    skipped = set(stock.done) | (set() if job.options.retry_failed else set(stock.failed))
    # before stored states are listed: the plan protects them from `sweeps.storage gc`
    others = ledger.write_plan(experiment.sweep, job.command)
    for ticket in experiment.imported:
        ticket.seal(ledger.store)
    job = with_replicas(job, ledger, skipped)
    fingerprint, stored, damaged = job.stored(len(ledger.plan.trials) - len(skipped), repair=True)
    for report in (*stock.reports, *damaged):
        job.say(f"note: {report}", "yellow")
    board.skipped = len(stock.done)
    covered = [t for t in ledger.plan.trials if t.name not in skipped and t.is_end_of_node and t.end.key in stored]
    results = map_in_threads(lambda trial: ledger.record(trial, fingerprint), covered)
    for trial, result in zip(covered, results, strict=True):
        if result is not None:
            skipped.add(trial.name)
            spent.share(trial.name)
            board.show(trial.name, result)
            ahead.add(trial.name)
            if loggers:
                loggers.recorded(trial.spec, ledger.read_record(trial.name))
    _note_fingerprints(job, stock, fingerprint)
    work = work_left(ledger.plan, skipped, stored)
    board.epochs_planned = work.epochs
    if others:
        job.say(f"note: {ledger.path} holds {len(others)} more trials of earlier commands; they are left as they are")
    job.say(f"{experiment.sweep.claim}\n{_todo_line(board, ledger, len(ledger.plan.trials) - len(skipped))}")
    failed = {name: reason for name, reason in stock.failed.items() if name in skipped}
    return job, Dispatcher(ledger.plan, skipped, stored, job.slots, replicas=job.setting.resources.replicas), failed


def _note_fingerprints(job: Job, stock: Stock, fingerprint: Mapping[str, Any]) -> None:
    """Warn if trials were trained on different machines or settings: they differ in their bytes, and so do pairs."""
    ids = stock.fingerprints | ({fingerprint_id(fingerprint)} if fingerprint else set())
    if len(ids) > 1:
        job.say(
            f"note: the trials of this run were trained under {len(ids)} fingerprints (device, threads, replicas or "
            "versions); pairs across them differ in more than the ticket: see the columns device, threads, replicas "
            "and torch_version",
            "yellow",
        )


def _todo_line(board: Board, ledger: Ledger, missing: int) -> str:
    parts = [f"{board.skipped} done before"] if board.skipped else []
    parts += [f"{board.spent.shared} recorded from stored states"] if board.spent.shared else []
    saved = ledger.plan.epochs_requested - ledger.plan.epochs_distinct
    parts.append(f"{missing} to go, {board.epochs_planned:,} epochs to train")
    shared = f"; sharing saves {saved:,} of {ledger.plan.epochs_requested:,}" if saved else ""
    return f"{board.planned} trials: {', '.join(parts)}{shared}  ->  {ledger.path}"
