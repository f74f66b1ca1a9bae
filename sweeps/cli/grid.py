"""A grid of trials from its options to its results: what the command and Python have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from analysis.text import console
from lth_trainable.collector import no_garbage_collection
from lth_trainable.spec.trial_spec import DataKey, TrialSpec
from lth_trainable.store.store import Store
from sweeps.cli.job import Job, Setting, facts_of, open_run
from sweeps.cli.options import Options
from sweeps.cli.training import Round, train_and_judge
from sweeps.cli.until_decided import look_by_look
from sweeps.experiments.experiment import Experiment
from sweeps.planning.compiling import why_not_compiled
from sweeps.planning.fit_together import check_fit_together, keys_do_not_cover
from sweeps.planning.plan import make_plan
from sweeps.runs.ledger import Ledger


def open_job(
    options: Options, setting: Setting, name: str, prepared: Callable[[Store], Experiment], command: Sequence[str]
) -> tuple[Job, Experiment]:
    """The job and its experiment; nothing is written yet. Raises `UserError`.

    name: of the run, if the options have none. prepared: makes the experiment for a store. command: as the user typed
    it.
    """
    store, name = open_run(options, name)
    with no_garbage_collection():
        experiment = prepared(store)
        ledger = lay_out(experiment, store, name, options)
    why_not = why_not_compiled(ledger.plan, ledger.facts) if setting.resources.compile else None
    job = Job(
        console=console(), options=options, setting=setting.compiling(setting.resources.compile and why_not is None),
        ledger=ledger, command=tuple(command),
    )  # fmt: skip
    if why_not is not None:
        job.say(f"note: {why_not}", "yellow")
    for note in (*experiment.notes, *keys_do_not_cover(experiment.trials.trials)):
        job.say(f"note: {note}")
    return job, experiment


def lay_out(experiment: Experiment, store: Store, name: str, options: Options) -> Ledger:
    """Plan the experiment's trials: the ledger of its run. The data are read; nothing is written."""
    trials = experiment.trials
    facts = {}
    for data, of_data in itertools.groupby(sorted(trials.trials, key=_data_of), key=_data_of):
        facts[data] = facts_of(data, options.data_root)
        check_fit_together(of_data, options.data_root)
    plan = make_plan(trials.trials, facts, options.keep_states)
    return Ledger(store=store, run=name, plan=plan, facts=facts, roles=trials.roles)


def _data_of(spec: TrialSpec) -> DataKey:
    return spec.data_key


def carry_out(job: Job, experiment: Experiment) -> Round:
    """Train the missing trials, look by look if that is planned; make the verdicts and print them."""
    import analysis

    job.ledger.check_writable()
    done = (
        look_by_look(job, experiment, train_and_judge) if experiment.sweep.looks else train_and_judge(job, experiment)
    )
    with no_garbage_collection():
        analysis.show(job.console, done.frames, job.ledger.path)
    return done
