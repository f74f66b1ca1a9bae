"""`--tune-lr dense ticket`: train each arm at every candidate on seeds of its own, and give the sweep the best rates.

The trials of tuning are a run of their own, NAME-tune-lr, in the same storage: their states are shared and reused as
any others, and no verdict counts them. Controls come after the tickets, whose masks they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.text import plural
from lth_trainable.errors import UserError
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.cli.dry_run import show_plan
from sweeps.cli.grid import open_job
from sweeps.cli.job import Job, Setting
from sweeps.cli.options import Options
from sweeps.cli.training import Round, train_and_judge
from sweeps.experiments.expand import Trials, expand
from sweeps.experiments.experiment import Experiment
from sweeps.experiments.recipes import Sweep
from sweeps.experiments.tuning import DENSE, FIRST_SEED, TICKET, Arm, Tuning, best_rates, check_arms

if TYPE_CHECKING:
    from analysis.tables.parquet import Frames

SUFFIX = "-tune-lr"
CLAIM = "Which learning rate is best on validation? (Seeds of tuning only; this is no verdict.)"


@dataclass
class NotTuned(Exception):
    """The rates are not known yet: the command was stopped, or trials of tuning have failed."""

    job: Job
    round: Round


@dataclass
class OnlyPlanned(Exception):
    """The rates are not known, and the command only shows its plan: that of tuning was shown."""

    job: Job


def check_tuning(options: Options, sweep: Sweep) -> None:
    """Raise `UserError` unless the learning rates that the options ask for can be tuned."""
    if not options.tune_lr:
        return
    if options.import_ticket:
        raise UserError(
            "tune-lr: found imported tickets; expected tickets that the sweep finds; tune by --lr and by hand"
        )
    check_arms(options.tune_lr, sweep.axes.get("lr", ()), sweep.controls, options.tune_seeds)
    if set(sweep.seeds) & set(_seeds(options)):
        raise UserError(f"tune-lr: found a seed of tuning among those of the sweep; expected seeds below {FIRST_SEED}")


def tuned(options: Options, setting: Setting, sweep: Sweep, command: Sequence[str]) -> tuple[Sweep, Setting]:
    """The sweep with tuned learning rates, after training what is missing for them, and what is left of the budget.

    The sweep itself if none are to be tuned.
    Raises `NotTuned` if it was stopped before they were known, and `OnlyPlanned` if the options ask only for the plan.
    """
    if not options.tune_lr:
        return sweep, setting
    name = f"{options.name or sweep.name}{SUFFIX}"
    candidates = tuple(dict.fromkeys(sweep.axes["lr"]))
    base = replace(
        sweep, name=name, claim=CLAIM, seeds=_seeds(options), looks=(), controls=(), baselines=(DENSE,), if_possible=(),
        axes={**sweep.axes, "lr": candidates},
    )  # fmt: skip
    arms: dict[str, Arm] = {}
    epochs, job = 0, None
    controls = tuple(arm for arm in options.tune_lr if arm in CONTROLS)
    for names in ((DENSE, TICKET), controls):
        if not names:
            continue
        stage = _of_controls(base, arms[TICKET].rate, controls, candidates) if names is controls else base
        job, experiment = _opened(options, _with_epochs_left(setting, epochs), stage, names, command)
        frames, n = _planned(job, options) if options.shows_plan else _trained(job, experiment)
        epochs += n
        ours = {trial.name for trial in job.ledger.plan.trials}
        arms |= best_rates(row for row in frames.rows("trials") if row["trial"] in ours)
        missing = [arm for arm in names if arm not in arms]
        if missing:  # trained, but by a command that ended before it gathered
            path = job.ledger.path
            advice = f"gather first: python -m analysis {path}"
            raise UserError(f"{path}: found no results of {', '.join(missing)}; {advice}")
    assert job is not None
    tuning = Tuning(run=name, seeds=base.seeds, arms={arm: arms[arm] for arm in options.tune_lr})
    for arm in options.tune_lr:
        job.say(_line(arm, arms[arm]))
    return with_rates(sweep, tuning), _with_epochs_left(setting, epochs)


def with_rates(sweep: Sweep, tuning: Tuning) -> Sweep:
    """The sweep whose tickets have their tuned rate; `expand` gives the other arms theirs."""
    return replace(sweep, axes={**sweep.axes, "lr": (tuning.arms[TICKET].rate,)}, tuning=tuning)


def _seeds(options: Options) -> tuple[int, ...]:
    return tuple(range(FIRST_SEED, FIRST_SEED + options.tune_seeds))


def _of_controls(base: Sweep, rate: float, names: tuple[str, ...], candidates: tuple[float, ...]) -> Sweep:
    axes = {**base.axes, "lr": (rate,), "control_lr": candidates}
    return replace(base, axes=axes, controls=names)


def _opened(
    options: Options, setting: Setting, sweep: Sweep, arms: Sequence[str], command: Sequence[str]
) -> tuple[Job, Experiment]:
    """The job of the trials of these arms."""
    trials = expand(sweep, options.data_root)
    kept = tuple(spec for spec in trials.trials if _arm(spec) in arms)
    roles = {spec.name: trials.roles[spec.name] for spec in kept}
    experiment = Experiment(sweep=sweep, trials=Trials(trials=kept, notes=(), roles=roles))
    job, _ = open_job(replace(options, name=sweep.name), setting, sweep.name, lambda _: experiment, command)
    job.say(f"tuning the learning rate of {' and '.join(arms)} on {plural(len(sweep.seeds), 'seed')} of its own")
    return job, experiment


def _trained(job: Job, experiment: Experiment) -> tuple[Frames, int]:
    """The tables of the run once its trials are trained, and the epochs trained. Raises `NotTuned` if some are not."""
    job.ledger.check_writable()
    done = train_and_judge(job, experiment)
    if done.summary["done"] < done.summary["planned"]:
        raise NotTuned(job, done)
    return done.frames, done.outcome.epochs


def _planned(job: Job, options: Options) -> tuple[Frames, int]:
    """The tables of the run if all of its trials are done. If not, show their plan and raise `OnlyPlanned`."""
    import analysis

    if len(job.ledger.take_stock(repair=False).done) == len(job.ledger.plan.trials):
        return analysis.load(job.ledger.path), 0
    show_plan(job, options)
    job.say("the sweep itself can be planned once these trials have shown the learning rates")
    raise OnlyPlanned(job)


def _arm(spec: TrialSpec) -> str:
    return TICKET if spec.control == "none" else spec.control


def _with_epochs_left(setting: Setting, trained: int) -> Setting:
    budget = setting.budget
    left = None if budget.epochs is None else max(0, budget.epochs - trained)
    return replace(setting, budget=replace(budget, epochs=left))


def _line(name: str, arm: Arm) -> str:
    tried = ", ".join(f"{100 * value:.2f} % at {lr:g}" for lr, value in arm.accuracies.items())
    edge = ""
    if arm.rate in (min(arm.accuracies), max(arm.accuracies)):
        edge = "; it is at the edge of the candidates, so a better one may lie beyond"
    return f"learning rate of {name.replace('_', ' ')}: {arm.rate:g} (validation accuracy {tried}){edge}"
