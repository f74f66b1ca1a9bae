"""The main job: lay out the trials of a recipe, train what is missing, gather, test, print.

    python -m sweeps.lth_grid [RECIPE] [--sparsity 50 80 90] [--seeds 5] [--dry-run] ...

Exit code: 0 when every planned trial is done, 1 when trials failed, 2 for bad input, 3 when --max-hours or --max-epochs
ended it early, 130 after an interrupt.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from lth_trainable.data import load_dataset
from lth_trainable.errors import UserError, bad_value
from lth_trainable.store import STATES, Store, fingerprint_mark
from sweeps.arguments import Options, parse
from sweeps.budget import Budget
from sweeps.cluster import Cluster
from sweeps.dispatch import Dispatcher
from sweeps.estimate import estimate
from sweeps.launch import Outcome, Resources, launch
from sweeps.ledger import Ledger, Stock, check_place
from sweeps.lock import RunLock
from sweeps.plan import Facts, as_json, make_plan, work_left
from sweeps.progress import Board
from sweeps.recipes import RECIPES, Sweep
from sweeps.references import each
from sweeps.showing import console, table_of
from sweeps.space import Space, expand
from sweeps.submit import Place, place_of, submit

OK, FAILED, BAD_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    try:
        options, sweep = parse(argv)
        return show_recipes(options) if options.list else run(options, sweep, sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what is finished stays: the same command goes on", file=sys.stderr)
        return INTERRUPTED


def run(options: Options, sweep: Sweep, arguments: Sequence[str]) -> int:
    """Train what is missing of the sweep, then gather and test; or show what that would be."""
    started = time.monotonic()
    resources = Resources(
        cpus=options.cpus_per_trial, gpus=options.gpus_per_trial, max_concurrent=options.max_concurrent,
        deterministic=options.deterministic,
    )  # fmt: skip
    shows = bool(options.dry_run or options.plan_figure)
    place = Place.LOCAL if shows else place_of(options)
    resources.check(here=options.cluster is None and options.address is None)
    budget = Budget(hours=options.max_hours, epochs=options.max_epochs)
    budget.check()
    space = expand(sweep)
    if place is Place.SUBMIT:
        return submit(options, arguments)
    store, name = _open(options, sweep)
    facts = _facts(space, options)
    ledger = Ledger(
        store=store, run=name, plan=make_plan(space.trials, facts, options.keep_states), facts=facts
    )  # fmt: skip
    job = Job(console=console(), options=options, resources=resources, ledger=ledger)
    for note in space.notes:
        job.say(f"note: {note}")
    if shows:
        return show_plan(job)
    ledger.check_writable()
    board = Board(planned=len(space.trials))
    with RunLock(store, name, board.now), contextlib.ExitStack() as sharing:
        if place is Place.CONNECT:
            cluster = Cluster.connect(options.address or "auto", resources, job.say)
            cluster.check_room()
            job = replace(job, cluster=sharing.enter_context(cluster.sharing(store, name)))
        outcome = train(job, sweep, ["python", "-m", "sweeps.lth_grid", *arguments], board, budget)
    done, verdicts = _conclude(job)
    summary = {
        "run": ledger.path, "planned": board.planned, "done": done,
        "failed": len(outcome.failures), "skipped": board.skipped, "shared": board.shared,
        "epochs_requested": ledger.plan.epochs_requested, "epochs_distinct": ledger.plan.epochs_distinct,
        "epochs_trained": outcome.epochs, "stopped_by": outcome.stopped_by,
        "wall_s": round(time.monotonic() - started, 2), "verdicts": verdicts,
    }  # fmt: skip
    return _finish(job, summary, outcome)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the parts of a command share."""

    console: Console
    options: Options
    resources: Resources
    ledger: Ledger
    cluster: Cluster | None = None

    def say(self, text: str, style: str = "") -> None:
        """One paragraph, wrapped by the terminal alone: a log keeps whole lines, and names keep their brackets."""
        self.console.print(text, style=style, soft_wrap=True, markup=False)

    def stored(self, missing: int, repair: bool) -> tuple[Mapping[str, Any], set[str], list[str]]:
        """Fingerprint of trials where they run, keys of states they can go on from, and reports on damaged ones."""
        if not missing or not self.ledger.store.exists(STATES):
            return {}, set(), []
        if self.cluster is not None:
            mark = self.cluster.mark()
            return mark, *self.ledger.stored(mark, repair)
        if self.options.cluster or self.options.address:
            self.say("note: what is stored is shown for this machine's fingerprint, not for the cluster's", "yellow")
        from lth_trainable.execution import Execution, fingerprint  # torch takes a second: only where states are read

        mark = fingerprint(Execution(**self.resources.execution()))
        return mark, *self.ledger.stored(mark, repair)


def train(job: Job, sweep: Sweep, command: list[str], board: Board, budget: Budget) -> Outcome:
    """Record what is covered already and train the rest."""
    ledger, options = job.ledger, job.options
    stock = ledger.take_stock(repair=True)
    skipped = set(stock.done) | (set() if options.retry_failed else set(stock.failed))
    ledger.write_plan(sweep, command)  # before states are counted on: it is what keeps them from being freed
    mark, stored, damaged = job.stored(len(ledger.plan.trials) - len(skipped), repair=True)
    for report in (*stock.reports, *damaged):
        job.say(f"note: {report}", "yellow")
    board.skipped = len(stock.done)
    covered = [t for t in ledger.plan.trials if t.name not in skipped and t.is_end_of_node and t.end.key in stored]
    for trial, result in zip(covered, each(lambda trial: ledger.record(trial, mark), covered), strict=True):
        if result is not None:
            skipped.add(trial.name)
            board.share(trial.name, result)
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
    if not dispatcher.over:
        execution = {"data_root": options.data_root.resolve() if options.data_root else None}
        outcome = launch(ledger, dispatcher, job.resources, execution, board, budget, job.cluster)
    for report in outcome.damaged:
        job.say(f"note: damaged, trained again: {report}", "yellow")
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


def show_plan(job: Job) -> int:
    """What the command would train, and how long that takes; nothing is written, except the figure asked for."""
    from sweeps.tree import plan_summary, plan_tree

    ledger, options = job.ledger, job.options
    stock = ledger.take_stock(repair=False)
    done = set(stock.done)
    _, stored, damaged = job.stored(len(ledger.plan.trials) - len(done), repair=False)
    work = work_left(ledger.plan, done, stored)
    for report in (*stock.reports, *damaged):
        job.say(f"note: {report}", "yellow")
    slots = job.resources.slots()
    cost = estimate(ledger, work, slots, options.data_root) if work.epochs else None
    if options.plan_figure is not None:
        from sweeps.plan_figure import draw_plan

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


def _open(options: Options, sweep: Sweep) -> tuple[Store, str]:
    """The store and the run's name. Raises `UserError` for a storage that cannot be read."""
    name = options.name or sweep.name
    try:
        store = check_place(options.storage, name)
        store.exists(name)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise bad_value("storage", options.storage, "a folder, or s3:// or gs:// with access to it", reason) from error
    return store, name


def _facts(space: Space, options: Options) -> dict[tuple[str, int], Facts]:
    found = {}
    for name, split_seed in {(spec.dataset, spec.split_seed) for spec in space.trials}:
        data = load_dataset(name, options.data_root, split_seed)
        found[name, split_seed] = Facts(digest=data.digest, n_train=len(data.train))
    return found


def _conclude(job: Job) -> tuple[int, list[dict[str, Any]]]:
    """Gather, test, print the verdicts; returns how many trials are done, and the verdicts as JSON-ready rows."""
    import analysis

    frames = analysis.gather(job.ledger.path)
    analysis.show(job.console, frames, job.ledger.path)
    ours = frames.trials[frames.trials.trial.isin([trial.name for trial in job.ledger.plan.trials])]
    return int(ours.status.isin(("done", "diverged")).sum()), analysis.as_rows(frames.verdicts)


def _todo_line(board: Board, ledger: Ledger, missing: int) -> str:
    parts = [f"{board.skipped} done before"] if board.skipped else []
    parts += [f"{board.shared} recorded from stored states"] if board.shared else []
    saved = ledger.plan.epochs_requested - ledger.plan.epochs_distinct
    parts.append(f"{missing} to go, {board.epochs_planned:,} epochs to train")
    shared = f"; sharing saves {saved:,} of {ledger.plan.epochs_requested:,}" if saved else ""
    return f"{board.planned} trials: {', '.join(parts)}{shared}  ->  {ledger.path}"


def _finish(job: Job, summary: dict[str, Any], outcome: Outcome) -> int:
    for name, reason in sorted(outcome.failures.items()):
        job.say(f"failed: {name}: {reason}", "red")
    if outcome.failures:
        job.say("the same command with --retry-failed tries them again", "yellow")
    if outcome.stopped_by:
        job.say(f"stopped by {outcome.stopped_by}; what is trained stays: the same command goes on", "yellow")
    if outcome.interrupted:
        job.say("interrupted; what is finished stays: the same command goes on", "yellow")
    if job.options.json:
        print(json.dumps(summary), flush=True)
    if outcome.interrupted:
        return INTERRUPTED
    if summary["done"] == summary["planned"]:
        return OK
    return STOPPED if outcome.stopped_by and not outcome.failures else FAILED


if __name__ == "__main__":
    sys.exit(main())
