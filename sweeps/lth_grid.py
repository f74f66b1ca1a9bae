"""The main command: plan the trials of a recipe, train those that are missing, gather the results, print the verdicts.

    python -m sweeps.lth_grid [RECIPE | FILE.yaml] [--sparsity 50 80 90] [--seeds 5] [--dry-run] ...

Exit code: 0 if every planned trial is done, 1 if trials or the storage failed, 2 for bad input, 3 if a limit
(--max-hours, --max-epochs) stopped it early, 130 after an interrupt.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    import sys

    from lth_trainable import nvidia, signals
    from sweeps.running import forking

    signals.install()
    nvidia.ask_ahead()
    forking.start_ahead(sys.argv[1:], signals.SIGNALS)

import json
import sys
import time
from collections.abc import Sequence

from analysis.text import console, table_of
from lth_trainable.collector import no_garbage_collection
from lth_trainable.errors import OK
from sweeps.cli.dry_run import show_plan
from sweeps.cli.grid import carry_out, open_job
from sweeps.cli.job import Setting, exit_code_of, finish
from sweeps.cli.options import Options, parse
from sweeps.cli.tune_lr import NotTuned, OnlyPlanned, check_tuning, tuned
from sweeps.cli.until_decided import with_looks
from sweeps.experiments.expand import expand
from sweeps.experiments.experiment import prepare
from sweeps.experiments.imported_tickets import Files
from sweeps.experiments.precision import with_precision
from sweeps.experiments.recipe_files import is_recipe_file
from sweeps.experiments.recipes import RECIPES, Sweep
from sweeps.running.submit import Where, check_is_sent, submit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def command() -> int:
        options, sweep = parse(argv)
        return show_recipes(options) if options.list else run(options, sweep, sys.argv[1:] if argv is None else argv)

    return exit_code_of(command)


def run(options: Options, sweep: Sweep, arguments: Sequence[str]) -> int:
    """Train the missing trials of the sweep and make the verdicts; or show the plan."""
    started = time.monotonic()
    sweep = with_precision(with_looks(options, sweep), on_gpus=options.resources.gpus > 0, here=options.is_here)
    files = Files(tickets=options.import_ticket, masks=options.import_masks)
    setting = Setting.of(options, trains=not options.shows_plan)
    check_tuning(options, sweep)
    if setting.where is Where.SUBMIT:
        files.check()
        expand(sweep, options.data_root)  # so that a mistake is reported here, not by the job
        if is_recipe_file(options.recipe):
            check_is_sent(options.recipe)
        return submit(options.target, "sweeps.lth_grid", arguments)
    command = ("python", "-m", "sweeps.lth_grid", *arguments)
    try:
        sweep, setting = tuned(options, setting, sweep, command)
    except NotTuned as stopped:
        summary = {**stopped.round.summary, "wall_s": round(time.monotonic() - started, 2)}
        return finish(stopped.job, summary, stopped.round.outcome)
    except OnlyPlanned:
        return OK
    job, experiment = open_job(
        options, setting, sweep.name, lambda store: prepare(sweep, files, store, options.data_root), command
    )
    if options.shows_plan:
        with no_garbage_collection():
            return show_plan(job, options)
    done = carry_out(job, experiment)
    return finish(job, {**done.summary, "wall_s": round(time.monotonic() - started, 2)}, done.outcome)


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


if __name__ == "__main__":
    signals.run(main, kept=signals.TRAINED, goes_on=True)
