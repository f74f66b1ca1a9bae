"""`--dry-run` and `--plan-figure`: show what a command would train, without training it."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from dataclasses import replace

from lth_trainable.errors import OK
from sweeps.cli.job import Job
from sweeps.cli.options import Options
from sweeps.cli.replicas import having, known_choice, measured_pace, told
from sweeps.planning.work import as_json, work_left
from sweeps.running.estimate import Pace, estimate
from sweeps.running.hardware import Hardware, hardware_of, of_launcher_file

NOT_CHOSEN = "not known: --replicas auto measures when the sweep starts how many trials are trained together"


def show_plan(job: Job, options: Options) -> int:
    """Show what the command would train and how long that takes. Nothing is written but the requested figure."""
    from sweeps.planning.plan_text import plan_summary, plan_tree

    ledger = job.ledger
    stock = ledger.take_stock(repair=False)
    done = set(stock.done)
    job, pace = _pace(job, options, done)
    slots = pace.slots
    missing = len(ledger.plan.trials) - len(done) if pace.hardware is None else 0  # there, other states would count
    _, stored, damaged = job.stored(missing, repair=False)
    work = work_left(ledger.plan, done, stored)
    for report in (*stock.reports, *damaged):
        job.say(f"note: {report}", "yellow")
    if options.plan_figure is not None:
        from sweeps.planning.plan_figure import draw_plan

        draw_plan(ledger.plan, work, done, stored, str(options.plan_figure))
    job.console.print(plan_tree(ledger.plan, work, done, stored))
    dim = functools.partial(job.say, style="dim")
    cost = estimate(ledger, work, stock.done, stored, pace, options.data_root, dim) if work.epochs else None
    seconds, bytes_ = (cost.seconds, cost.bytes) if cost else (0.0, 0)
    job.console.print(plan_summary(ledger.plan, work, done, seconds=seconds, slots=slots, bytes_=bytes_))
    if cost:
        replicas = pace.resources.replicas
        of = f" of up to {replicas} trials together" if replicas > 1 else ""
        dim(f"{'time' if cost.per_epoch is None else f'{cost.per_epoch * 1e3:.0f} ms an epoch{of}'}: {cost.source}")
    if cost and pace.hardware is not None:
        dim(f"planned for {pace.hardware.words}; assumed: {'; '.join(pace.hardware.assumptions(pace.resources))}")
        if slots is None:
            dim("a dry run does not ask a cluster what it has: say it, as in --on '8 x H100'")
    others = ledger.other_trials()
    if others:
        job.say(
            f"{ledger.path} holds {len(others)} more trials of earlier commands; this command trains "
            f"{work.epochs:,} epochs and reuses {ledger.plan.epochs_distinct - work.epochs:,}"
        )
    if options.json:
        figures = {**as_json(ledger.plan, work), "run": ledger.path, "done": len(done), "other_trials": len(others)}
        more = {
            "slots": slots, "planned_for": pace.hardware.words if pace.hardware else None,
            "replicas": None if pace.unknown else pace.resources.replicas,
        }  # fmt: skip
        print(json.dumps({**figures, "estimated_s": seconds, "disk_bytes": bytes_, **more}))
    return OK


def _pace(job: Job, options: Options, done: Collection[str]) -> tuple[Job, Pace]:
    """What is known of the pace, and the job with the number of replicas that it would have."""
    pace = Pace(resources=job.setting.resources, hardware=planned_for(options), told=options.seconds_per_epoch)
    if pace.resources.stacking == "measured":
        choice = known_choice(job, done)
        if choice is None:
            return job, replace(pace, unknown=NOT_CHOSEN)
        job.say(told(choice), "dim")
        job = having(job, choice.replicas)
        pace = replace(pace, resources=job.setting.resources)
    if pace.hardware is None and pace.resources.gpus and pace.resources.replicas > 1:
        pace = replace(pace, of_stack=measured_pace(job, done))
    return job, pace


def planned_for(options: Options) -> Hardware | None:
    """The hardware that the options plan for; None for this machine. Raises `UserError`."""
    if options.on is not None:
        return hardware_of(options.on)
    if options.cluster is not None:
        return of_launcher_file(options.cluster)
    return None if options.address is None else Hardware(words=f"the cluster at {options.address}", nodes=None)
