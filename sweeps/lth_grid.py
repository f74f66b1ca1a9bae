"""The main job: lay out the trials of a recipe, train what is missing, gather, test, print.

    python -m sweeps.lth_grid [RECIPE] [--sparsity 50 80 90] [--seeds 5] [--dry-run] ...

Exit code: 0 when every planned trial is done, 1 when trials failed or the disk is full, 2 for bad input, 3 when
--max-hours or --max-epochs ended it early, 130 after an interrupt.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from analysis.text import console, table_of
from lth_trainable.store.store import fingerprint_mark, map_in_threads
from sweeps.cli.job import OK, Job, exit_code_of, facts_of, finish, open_run
from sweeps.cli.options import Options, parse
from sweeps.cli.until_decided import Round, look_by_look, looks_note, with_looks
from sweeps.experiments.expand import expand
from sweeps.experiments.imported_tickets import Files, import_tickets
from sweeps.experiments.recipes import RECIPES, Sweep
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import make_plan
from sweeps.planning.work import as_json, work_left
from sweeps.running.estimate import estimate
from sweeps.running.launch import Outcome, launch
from sweeps.running.log_feed import Loggers
from sweeps.running.loggers import check_loggers
from sweeps.running.progress import Board
from sweeps.running.resources import Budget, Spent
from sweeps.running.submit import Where, submit, where_of
from sweeps.runs.ledger import Ledger, Stock
from sweeps.runs.lock import RunLock

if TYPE_CHECKING:
    from analysis.tables.parquet import Frames
    from lth_trainable.tickets.imported import Imported


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def command() -> int:
        options, sweep = parse(argv)
        return show_recipes(options) if options.list else run(options, sweep, sys.argv[1:] if argv is None else argv)

    return exit_code_of(command)


def run(options: Options, sweep: Sweep, arguments: Sequence[str]) -> int:
    """Train what is missing of the sweep, then gather and test; or show what that would be."""
    started = time.monotonic()
    sweep = with_looks(options, sweep)
    resources = options.resources
    shows = bool(options.dry_run or options.plan_figure)
    where = Where.LOCAL if shows else where_of(options.target)
    resources.check(here=options.target.is_this_machine)
    budget = Budget(hours=options.max_hours, epochs=options.max_epochs)
    budget.check()
    check_loggers(options.log, here=where is not Where.SUBMIT)
    sweep, imported, told = _imports(options, sweep, where)
    space = expand(sweep, options.data_root)
    if where is Where.SUBMIT:
        return submit(options.target, "sweeps.lth_grid", arguments)
    store, name = open_run(options, sweep.name)
    facts = {of: facts_of(*of, options.data_root) for of in {(spec.dataset, spec.split_seed) for spec in space.trials}}
    ledger = Ledger(
        store=store, run=name, plan=make_plan(space.trials, facts, options.keep_states), facts=facts, roles=space.roles
    )  # fmt: skip
    job = Job(console=console(), options=options, resources=resources, ledger=ledger, imported=imported)
    for note in (*told, *space.notes, *looks_note(sweep)):
        job.say(f"note: {note}")
    if shows:
        return show_plan(job, options)
    ledger.check_writable()
    command = ["python", "-m", "sweeps.lth_grid", *arguments]

    def once(job: Job, sweep: Sweep, budget: Budget) -> Round:
        return _train_and_judge(job, sweep, command, budget, where)

    done = look_by_look(job, sweep, budget, once) if sweep.looks else once(job, sweep, budget)
    _show(job, done.frames)
    return finish(job, {**done.summary, "wall_s": round(time.monotonic() - started, 2)}, done.outcome)


def _imports(options: Options, sweep: Sweep, where: Where) -> tuple[Sweep, tuple[Imported, ...], tuple[str, ...]]:
    """The sweep with the tickets that the command imports, if it does, and what is to be told of them."""
    files = Files(tickets=options.import_ticket, masks=options.import_masks)
    if files.tickets and where is not Where.SUBMIT:
        return import_tickets(sweep, files, open_run(options, sweep.name)[0], options.data_root)
    files.check()
    return sweep, (), ()


def train(
    job: Job, sweep: Sweep, command: list[str], spent: Spent, board: Board, budget: Budget, loggers: Loggers
) -> Outcome:
    """Record what is covered already and train the rest."""
    ledger, options = job.ledger, job.options
    stock = ledger.take_stock(repair=True)
    skipped = set(stock.done) | (set() if options.retry_failed else set(stock.failed))
    ledger.write_plan(sweep, command)  # before states are counted on: it is what keeps them from being freed
    for ticket in job.imported:
        ticket.seal(ledger.store)
    mark, stored, damaged = job.stored(len(ledger.plan.trials) - len(skipped), repair=True)
    for report in (*stock.reports, *damaged):
        job.say(f"note: {report}", "yellow")
    board.skipped = len(stock.done)
    covered = [t for t in ledger.plan.trials if t.name not in skipped and t.is_end_of_node and t.end.key in stored]
    for trial, result in zip(covered, map_in_threads(lambda trial: ledger.record(trial, mark), covered), strict=True):
        if result is not None:
            skipped.add(trial.name)
            spent.share(trial.name)
            board.show(trial.name, result)
            if loggers:
                loggers.recorded(trial.spec, ledger.read_record(trial.name))
    _note_fingerprints(job, stock, mark)
    work = work_left(ledger.plan, skipped, stored)
    board.epochs_planned = work.epochs
    others = ledger.other_trials()
    if others:
        job.say(f"note: {ledger.path} holds {len(others)} more trials, of earlier commands; they stay as they are")
    job.say(f"{sweep.claim}\n{_todo_line(board, ledger, len(ledger.plan.trials) - len(skipped))}")
    outcome = Outcome(epochs=0, failures={}, interrupted=False)
    slots = (job.cluster or job.resources).slots()
    dispatcher = Dispatcher(ledger.plan, skipped, stored, slots)
    for line in loggers.watch:
        job.say(f"watch: {line}")
    if not dispatcher.over:
        execution = {"data_root": options.data_root.resolve() if options.data_root else None}
        outcome = launch(
            ledger, dispatcher, job.resources, execution, spent, budget,
            board=board, cluster=job.cluster, loggers=loggers,
        )  # fmt: skip
    for note in outcome.notes:
        job.say(f"note: {note}", "yellow")
    left = {name: reason for name, reason in stock.failed.items() if name in skipped}
    return replace(outcome, failures={**left, **outcome.failures})


def _note_fingerprints(job: Job, stock: Stock, mark: Mapping[str, Any]) -> None:
    """Trials of several machines or settings do not repeat each other's bytes, and a pair may be of two of them."""
    marks = stock.fingerprints | ({fingerprint_mark(mark)} if mark else set())
    if len(marks) > 1:
        job.say(
            f"note: the trials of this run were trained under {len(marks)} fingerprints (device, threads or versions); "
            "pairs across them differ by more than the ticket: see the columns device, threads and torch_version",
            "yellow",
        )


def show_recipes(options: Options) -> int:
    """The recipes, a line each; with --json as an object of name and claim."""
    if options.json:
        print(json.dumps({name: recipe().claim for name, recipe in RECIPES.items()}))
        return OK
    table = table_of("recipe", "trials", "epochs", "question", left=("question",))
    for name, recipe in RECIPES.items():
        space = expand(recipe())
        table.add_row(name, str(len(space.trials)), f"{space.epochs:,}", recipe().claim)
    console().print(table)
    return OK


def show_plan(job: Job, options: Options) -> int:
    """What the command would train, and how long that takes; nothing is written, except the figure asked for."""
    from sweeps.planning.plan_text import plan_summary, plan_tree

    ledger = job.ledger
    stock = ledger.take_stock(repair=False)
    done = set(stock.done)
    _, stored, damaged = job.stored(len(ledger.plan.trials) - len(done), repair=False)
    work = work_left(ledger.plan, done, stored)
    for report in (*stock.reports, *damaged):
        job.say(f"note: {report}", "yellow")
    slots = job.resources.slots()
    cost = estimate(ledger, work, slots, options.data_root) if work.epochs else None
    if options.plan_figure is not None:
        from sweeps.planning.plan_figure import draw_plan

        draw_plan(ledger.plan, work, done, stored, str(options.plan_figure))
    job.console.print(plan_tree(ledger.plan, work, done, stored))
    seconds, bytes_ = (cost.seconds, cost.bytes) if cost else (0.0, 0)
    job.console.print(plan_summary(ledger.plan, work, done, seconds=seconds, slots=slots, bytes_=bytes_))
    if cost:
        job.say(f"{cost.per_epoch * 1e3:.0f} ms an epoch, {cost.source}", "dim")
    others = ledger.other_trials()
    if others:
        job.say(
            f"{ledger.path} holds {len(others)} more trials, of earlier commands; this command trains "
            f"{work.epochs:,} epochs and reuses {ledger.plan.epochs_distinct - work.epochs:,}"
        )
    if options.json:
        figures = {**as_json(ledger.plan, work), "run": ledger.path, "done": len(done), "other_trials": len(others)}
        print(json.dumps({**figures, "estimated_s": seconds, "disk_bytes": bytes_}))
    return OK


def _train_and_judge(job: Job, sweep: Sweep, command: list[str], budget: Budget, where: Where) -> Round:
    """Train what is missing of these trials, then gather and test."""
    import analysis

    ledger, spent = job.ledger, Spent()
    board = Board(planned=len(ledger.plan.trials), spent=spent)
    with contextlib.ExitStack() as watched:
        with RunLock(ledger.store, ledger.run, spent.now), contextlib.ExitStack() as sharing:
            loggers = watched.enter_context(Loggers.open(job.options.log, ledger.store, ledger.run).running())
            if where is Where.CONNECT:
                job = replace(job, cluster=sharing.enter_context(job.connected()))
            outcome = train(job, sweep, command, spent, board, budget, loggers)
        frames = analysis.gather(ledger.path)
    for note in loggers.notes:
        job.say(f"note: {note}", "yellow")
    ours = frames.trials[frames.trials.trial.isin([trial.name for trial in ledger.plan.trials])]
    summary = {
        "run": ledger.path, "planned": board.planned, "done": int(ours.status.isin(("done", "diverged")).sum()),
        "failed": len(outcome.failures), "skipped": board.skipped, "shared": spent.shared,
        "epochs_requested": ledger.plan.epochs_requested, "epochs_distinct": ledger.plan.epochs_distinct,
        "epochs_trained": outcome.epochs, "stopped_by": outcome.stopped_by,
        "verdicts": analysis.as_rows(frames.verdicts),
    }  # fmt: skip
    return Round(summary=summary, outcome=outcome, frames=frames)


def _show(job: Job, frames: Frames) -> None:
    import analysis

    analysis.show(job.console, frames, job.ledger.path)


def _todo_line(board: Board, ledger: Ledger, missing: int) -> str:
    parts = [f"{board.skipped} done before"] if board.skipped else []
    parts += [f"{board.spent.shared} recorded from stored states"] if board.spent.shared else []
    saved = ledger.plan.epochs_requested - ledger.plan.epochs_distinct
    parts.append(f"{missing} to go, {board.epochs_planned:,} epochs to train")
    shared = f"; sharing saves {saved:,} of {ledger.plan.epochs_requested:,}" if saved else ""
    return f"{board.planned} trials: {', '.join(parts)}{shared}  ->  {ledger.path}"


if __name__ == "__main__":
    sys.exit(main())
