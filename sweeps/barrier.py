"""The analysis of barriers, with its training in parallel: networks that are missing are trials of Ray Tune.

    python -m sweeps.barrier RUN [TRIAL ...] [--between copies|levels|dense] [--max-concurrent 4] ...

The same as `python -m analysis barrier`, which trains one network at a time in its own process. Both leave the same
files, and each goes on from where the other was. Exit code: 0; 1 if a network failed or the storage did; 2 for bad
input; 3 if --max-hours stopped it early, 130 after an interrupt.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import quiet, signals

    signals.install()
    quiet.ignore_torch_warnings()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from analysis.commands.barrier import BarrierOptions, announce, measure, show_cost, work_of_options
from lth_trainable import signals
from lth_trainable.errors import FAILED, STOPPED, bad_value
from lth_trainable.options import parsed
from lth_trainable.training.execution import Execution
from sweeps.cli.job import exit_code_of
from sweeps.planning.barrier_plan import Job, plan_of
from sweeps.planning.dispatch import Dispatcher
from sweeps.running.launch import Outcome, launch
from sweeps.running.progress import Board
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.runs.ledger import Ledger
from sweeps.runs.lock import RunLock

KEPT = "finished networks are kept: the same command goes on from there"


@dataclass(frozen=True, kw_only=True)
class Options(BarrierOptions):
    """The analysis of barriers with its training in parallel: like `python -m analysis barrier`, but copies, and levels
    that are not stored, are trained by Ray Tune, as many at a time as fit on this machine. See docs/barrier.md.
    """

    max_concurrent: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Networks in training at a time; None: as many as fit."""
    gpus_per_trial: Annotated[float, tyro.conf.arg(metavar="0.25|1")] = 1
    """Where networks train on a GPU: a fraction of it, or 1."""
    max_hours: Annotated[float | None, tyro.conf.arg(metavar="H")] = None
    """Stop after H hours; the same command continues."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return exit_code_of(lambda: run(parsed(Options, prog="python -m sweeps.barrier", args=argv)))


def run(options: Options) -> int:
    """Train what is missing, then measure the lines."""
    budget = Budget(hours=options.max_hours)
    budget.check()
    if not 0 < options.gpus_per_trial <= 1:
        raise bad_value("gpus-per-trial", options.gpus_per_trial, "a fraction of a GPU such as 0.25, or 1")
    work = work_of_options(options)
    to = announce(options, work)
    if options.dry_run:
        return show_cost(options, work)
    alike: dict[Execution, list[Job]] = {}
    for job in work.jobs:
        alike.setdefault(job.execution, []).append(job)
    for execution, jobs in alike.items():
        outcome = train(options, execution, jobs, budget)
        for note in outcome.notes:
            print(f"note: {note}", file=sys.stderr)
        if (code := _exit_code(outcome)) is not None:
            return code
    return measure(options, work, to)


def train(options: Options, execution: Execution, jobs: Sequence[Job], budget: Budget) -> Outcome:
    """Train what these jobs lack, all with the same execution. Ray does not start if that is nothing."""
    choice = jobs[0].store, jobs[0].run
    plan, facts = plan_of(jobs)
    nothing = Outcome(epochs=0, failures={}, interrupted=False)
    if not plan.trials:
        return nothing
    resources = Resources(
        cpus=execution.threads, gpus=options.gpus_per_trial if execution.device == "cuda" else 0,
        max_concurrent=options.max_concurrent, deterministic=execution.deterministic, replicas=execution.replicas,
        compile=execution.compile,
    )  # fmt: skip
    resources.check()
    ledger = Ledger(store=choice[0], run=f"{choice[1]}/barriers", plan=plan, facts=facts)
    ledger.check_writable()
    spent = Spent()
    with RunLock(ledger.store, ledger.run, spent.now) as lock:
        stored: set[str] = ledger.stored(jobs[0].fingerprint, repair=True)[0] if facts else set()
        dispatcher = Dispatcher(plan, (), stored, resources.slots(), replicas=resources.replicas)
        board = Board(planned=len(plan.trials), spent=spent, epochs_planned=dispatcher.epochs_left)
        where = {"data_root": options.data_root.resolve() if options.data_root else None}
        return launch(ledger, dispatcher, resources, where, spent, budget, board=None if options.json else board,
                      health=lock.health)  # fmt: skip


def _exit_code(outcome: Outcome) -> int | None:
    """Print why training has ended early; returns the exit code. None: it has not."""
    for name, reason in sorted(outcome.failures.items()):
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if outcome.interrupted:
        by = outcome.signal or "SIGINT"
        print(f"{signals.words(by)}; {KEPT}", file=sys.stderr)
        signals.said()
        return signals.exit_code(by)
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by}; {KEPT}", file=sys.stderr)
        signals.said()
        return STOPPED if not outcome.failures else FAILED
    return FAILED if outcome.failures else None


if __name__ == "__main__":
    signals.run(main, kept=KEPT, goes_on=True)
