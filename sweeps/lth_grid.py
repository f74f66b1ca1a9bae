"""The main command: plan the trials of a recipe, train those that are missing, gather the results, print the verdicts.

    python -m sweeps.lth_grid [RECIPE | FILE.yaml] [--sparsity 50 80 90] [--seeds 5] [--dry-run] ...

Exit code: 0 if every planned trial is done, 1 if trials or the storage failed, 2 for bad input, 3 if a limit
(--max-hours, --max-epochs) stopped it early, 130 after an interrupt.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.text import console, table_of
from lth_trainable.collector import no_garbage_collection
from lth_trainable.errors import OK
from lth_trainable.store.store import Store
from sweeps.cli.dry_run import show_plan
from sweeps.cli.job import Job, Setting, check_fit_together, exit_code_of, facts_of, finish, open_run
from sweeps.cli.options import Options, parse
from sweeps.cli.training import train_and_judge
from sweeps.cli.until_decided import look_by_look, with_looks
from sweeps.experiments.expand import expand
from sweeps.experiments.experiment import Experiment, prepare
from sweeps.experiments.imported_tickets import Files
from sweeps.experiments.recipe_files import is_recipe_file
from sweeps.experiments.recipes import RECIPES, Sweep
from sweeps.planning.plan import make_plan
from sweeps.running.submit import Where, check_is_sent, submit
from sweeps.runs.ledger import Ledger

if TYPE_CHECKING:
    from analysis.tables.parquet import Frames


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def command() -> int:
        options, sweep = parse(argv)
        return show_recipes(options) if options.list else run(options, sweep, sys.argv[1:] if argv is None else argv)

    return exit_code_of(command)


def run(options: Options, sweep: Sweep, arguments: Sequence[str]) -> int:
    """Train the missing trials of the sweep and make the verdicts; or show the plan."""
    started = time.monotonic()
    sweep, files = with_looks(options, sweep), Files(tickets=options.import_ticket, masks=options.import_masks)
    setting = Setting.of(options, trains=not options.shows_plan)
    if setting.where is Where.SUBMIT:
        files.check()
        expand(sweep, options.data_root)  # so that a mistake is reported here, not by the job
        if is_recipe_file(options.recipe):
            check_is_sent(options.recipe)
        return submit(options.target, "sweeps.lth_grid", arguments)
    store, name = open_run(options, sweep.name)
    with no_garbage_collection():
        experiment = prepare(sweep, files, store, options.data_root)
        ledger = lay_out(experiment, store, name, options)
    job = Job(
        console=console(), options=options, setting=setting, ledger=ledger,
        command=("python", "-m", "sweeps.lth_grid", *arguments),
    )  # fmt: skip
    for note in experiment.notes:
        job.say(f"note: {note}")
    if options.shows_plan:
        with no_garbage_collection():
            return show_plan(job, options)
    job.ledger.check_writable()
    done = look_by_look(job, experiment, train_and_judge) if sweep.looks else train_and_judge(job, experiment)
    with no_garbage_collection():
        _show(job, done.frames)
    return finish(job, {**done.summary, "wall_s": round(time.monotonic() - started, 2)}, done.outcome)


def lay_out(experiment: Experiment, store: Store, name: str, options: Options) -> Ledger:
    """Plan the experiment's trials: the ledger of its run. The data are read; nothing is written."""
    trials = experiment.trials
    data = {spec.data_key for spec in trials.trials}
    facts = {of: facts_of(of, options.data_root) for of in data}
    check_fit_together(trials.trials, options.data_root)
    plan = make_plan(trials.trials, facts, options.keep_states)
    return Ledger(store=store, run=name, plan=plan, facts=facts, roles=trials.roles)


def show_recipes(options: Options) -> int:
    """List the recipes, one line each; with --json as an object of claims by name."""
    if options.json:
        print(json.dumps({name: recipe().claim for name, recipe in RECIPES.items()}))
        return OK
    table = table_of("recipe", "trials", "epochs", "question", left=("question",))
    for name, recipe in RECIPES.items():
        expanded = expand(recipe())
        table.add_row(name, str(len(expanded.trials)), f"{expanded.epochs:,}", recipe().claim)
    console().print(table)
    return OK


def _show(job: Job, frames: Frames) -> None:
    import analysis

    analysis.show(job.console, frames, job.ledger.path)


if __name__ == "__main__":
    signals.run(main, kept=signals.TRAINED, goes_on=True)
