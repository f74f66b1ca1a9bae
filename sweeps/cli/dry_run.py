"""`--dry-run` and `--plan-figure`: show what a command would train, without training it."""

from __future__ import annotations

import json

from lth_trainable.errors import OK
from sweeps.cli.job import Job
from sweeps.cli.options import Options
from sweeps.planning.work import as_json, work_left
from sweeps.running.estimate import estimate


def show_plan(job: Job, options: Options) -> int:
    """Show what the command would train and how long that takes. Nothing is written but the requested figure."""
    from sweeps.planning.plan_text import plan_summary, plan_tree

    ledger = job.ledger
    stock = ledger.take_stock(repair=False)
    done = set(stock.done)
    _, stored, damaged = job.stored(len(ledger.plan.trials) - len(done), repair=False)
    work = work_left(ledger.plan, done, stored)
    for report in (*stock.reports, *damaged):
        job.say(f"note: {report}", "yellow")
    if options.plan_figure is not None:
        from sweeps.planning.plan_figure import draw_plan

        draw_plan(ledger.plan, work, done, stored, str(options.plan_figure))
    job.console.print(plan_tree(ledger.plan, work, done, stored))
    cost = estimate(ledger, work, stock.done, job.setting.resources, options.data_root) if work.epochs else None
    seconds, bytes_ = (cost.seconds, cost.bytes) if cost else (0.0, 0)
    job.console.print(plan_summary(ledger.plan, work, done, seconds=seconds, slots=job.slots, bytes_=bytes_))
    if cost:
        pace = "time: " if cost.per_epoch is None else f"{cost.per_epoch * 1e3:.0f} ms an epoch, "
        job.say(f"{pace}{cost.source}", "dim")
    others = ledger.other_trials()
    if others:
        job.say(
            f"{ledger.path} holds {len(others)} more trials of earlier commands; this command trains "
            f"{work.epochs:,} epochs and reuses {ledger.plan.epochs_distinct - work.epochs:,}"
        )
    if options.json:
        figures = {**as_json(ledger.plan, work), "run": ledger.path, "done": len(done), "other_trials": len(others)}
        print(json.dumps({**figures, "estimated_s": seconds, "disk_bytes": bytes_}))
    return OK
