"""`--until-decided --max-seeds N`: add seeds at planned interim looks until every ladder is settled.

The looks are fixed before the first trial and stored in plan.json. A rerun continues with the same looks, so alpha that
is spent stays spent. What a look decides is `analysis.verdicts.outlook` and `analysis.stats.sequential`; here is
the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.tables.roles import TICKET, role_of
from analysis.text import plural
from lth_trainable.errors import UserError, bad_value, too_large
from lth_trainable.store.store import PLAN
from sweeps.cli.job import Job
from sweeps.cli.options import Options
from sweeps.cli.training import Round
from sweeps.experiments.expand import MOST_SEEDS
from sweeps.experiments.experiment import Experiment
from sweeps.experiments.recipes import Sweep

if TYPE_CHECKING:
    from analysis.tables.schema import Row
    from sweeps.cli.job import Job


def with_looks(options: Options, sweep: Sweep) -> Sweep:
    """The sweep with the interim looks that the options ask for, and the seeds of the last one. Raises `UserError`."""
    if not options.until_decided:
        if options.max_seeds is not None:
            raise bad_value("max-seeds", options.max_seeds, "--until-decided with it")
        return sweep
    if options.seeds is not None or options.seed:
        raise UserError("--until-decided: found --seeds or --seed with it; expected --max-seeds N, seeds 0 to N-1")
    if options.max_seeds is None:
        raise UserError("--until-decided: found no --max-seeds; expected the number of seeds to end at, such as 20")
    if options.max_seeds > MOST_SEEDS:
        raise too_large("max-seeds", options.max_seeds, MOST_SEEDS)
    from analysis.stats.sequential import planned_looks  # takes a second to import

    looks = planned_looks(options.max_seeds)
    return replace(sweep, looks=looks, seeds=tuple(range(looks[-1])))


def look_by_look(job: Job, experiment: Experiment, once: Callable[[Job, Experiment], Round]) -> Round:
    """Train and judge at one look after another; returns the last round, with the epochs of all.

    It starts at the look that the run has reached. It ends when every ladder is settled, no look is left, a limit or an
    interrupt stops it, or a look has no finished pair. A failed trial breaks its pair, but the looks continue.
    """

    looks, budget = experiment.sweep.looks, job.setting.budget
    n, epochs = _first(job, looks), 0
    while True:
        left = None if budget.epochs is None else budget.epochs - epochs
        setting = replace(job.setting, budget=replace(budget, epochs=left))
        done = once(replace(job, ledger=job.ledger.for_seeds(range(n)), setting=setting), experiment)
        epochs += done.outcome.epochs
        look = _judged(done.frames.rows("verdicts"), looks, n)
        job.say(f"look {looks.index(n) + 1} of {len(looks)}, {n} seeds: {look.state}")
        stopped_by = done.outcome.stopped_by or (budget.reached(epochs) if look.following else None)
        if look.following is None or stopped_by or done.outcome.interrupted:
            break
        n = look.following
    summary = {**done.summary, "epochs_trained": epochs, "stopped_by": stopped_by}
    if look.following is not None:  # the rest of the sweep is not done
        summary["planned"] = len(job.ledger.for_seeds(range(look.following)).plan.trials)
    summary["looks"] = {"planned": list(looks), "seeds": n, "settled": look.settled}
    return replace(done, summary=summary, outcome=replace(done.outcome, stopped_by=stopped_by))


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The result of a look.

    settled: whether each ladder is. following: number of seeds at the next look, None if there is none. state: both in
    words.
    """

    settled: Mapping[str, bool]
    following: int | None
    state: str


def _judged(rows: Sequence[Row], looks: Sequence[int], n: int) -> _Look:
    """What the rows of verdicts.parquet mean after the look at `n` seeds."""
    from analysis.verdicts.outlook import next_look, settled

    ladders, following = settled(rows), next_look(rows, looks)
    count = f"{sum(ladders.values())} of {plural(len(ladders), 'ladder')} settled"
    if following is None:
        end = "decided" if all(ladders.values()) else "not decided, and no look is left"
        return _Look(settled=ladders, following=None, state=f"{count}; {end}")
    if following <= n:
        return _Look(settled=ladders, following=None, state="its trials are not all done")
    if not any(
        row["n_pairs"] for row in rows if row["claim"] == "matches" and row["primary"] and row["role"] == TICKET
    ):
        return _Look(settled=ladders, following=None, state="no pair is finished")
    return _Look(settled=ladders, following=following, state=f"{count}; the next look is at {following} seeds")


def _first(job: Job, looks: Sequence[int]) -> int:
    """The look to start with: the last one whose seeds the run already has. Raises `UserError`.

    The tickets are fixed together with the looks. A ticket added after a look would be chosen because of its result.
    """
    store, run = job.ledger.store, job.ledger.run
    if not store.exists(f"{run}/{PLAN}"):
        return looks[0]
    from analysis.labels import group_name, replicate_fields
    from analysis.tables.run_plan import read_plan

    planned = read_plan(store, run)
    of_plan = replicate_fields(t.name for t in planned.trials)
    before = {group_name(t.name, of_plan) for t in planned.trials if t.role == TICKET}
    roles = {t.name: job.ledger.roles.get(t.name, role_of(t.spec)) for t in job.ledger.plan.trials}
    replicate = replicate_fields(roles)
    found = {group_name(name, replicate) for name, role in roles.items() if role == TICKET}
    if planned.rule.looks and before != found:
        other = sorted(before ^ found)[0]
        raise UserError(
            f"{job.ledger.path}: its looks were planned for other tickets (such as {other}); expected the same axes; "
            "choose another --name"
        )
    seeds = {trial.spec["seed"] for trial in planned.trials}
    return max((n for n in looks if set(range(n)) <= seeds), default=looks[0])
