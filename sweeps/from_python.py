"""Sweeps from Python, with the same options, output and files as the command:

    from sweeps import Sweep, run_trials

    sweep = Sweep("digits", sparsity=[64, 87.04], seeds=5, controls="reinit")
    run = sweep.run(storage="runs")     # trains what is missing, shows how far it is, prints the verdicts
    run.verdicts(), run.trials()        # data frames
    run.ok, run.folder, run.report

A mistake is one `UserError`, before anything starts. The same call again continues, as the same command does.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.run import Run, unpaired
from lth_trainable.errors import OK, UserError, bad_value
from lth_trainable.scalars import plain
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.cli.arguments import SWEEP, Arguments, as_content, several
from sweeps.cli.dry_run import show_plan
from sweeps.cli.grid import carry_out, open_job
from sweeps.cli.in_python import changed, ended_by, ray_of_its_own, seeds_of, setting_of, told
from sweeps.cli.job import Job, finish
from sweeps.cli.options import Options, flags, with_values
from sweeps.cli.tune_lr import NotTuned, OnlyPlanned, check_tuning, tuned
from sweeps.cli.until_decided import with_looks
from sweeps.experiments.expand import expand, of_specs
from sweeps.experiments.experiment import Experiment, prepare
from sweeps.experiments.imported_tickets import Files, without_own_tickets
from sweeps.experiments.precision import with_precision
from sweeps.experiments.recipe_files import any_recipe, check_rule, field_of, recipe_of, value_of
from sweeps.experiments.recipes import BRANCHES
from sweeps.experiments.recipes import Sweep as Recipe

AnyRecipe = str | os.PathLike[str] | Mapping[str, Any] | Recipe | Callable[[], Recipe]
RULE = ("claim", "endpoint", "margin_pp", "alpha")  # what a recipe also has, and the command line has no flag for
AXES = {**{flag: field for field, flag in flags().items()}, **{field: field for field in flags()}}
OF_RECIPE = (*AXES, *RULE, *BRANCHES, "seeds", "seed")
WHERE = SWEEP.where
RUN_TRIALS = Arguments("run_trials", "sweeps.lth_grid", Options)


class Sweep:
    """A grid of tickets with what they are compared with, as `python -m sweeps.lth_grid` makes it.

    recipe: its name, its file, "package.module:function", such a function, or its keys and values as in a recipe file,
    such as {"base": {"epochs": 5}, "axes": {"sparsity": [50, 80]}, "seeds": 5}.
    arguments: what the options of the command line are called, with _ for -; several values as a list: `sparsity`,
    `rewind_epoch`, `lr` and all other fields of a trial; `seeds` (their number, or a list of them), `controls`,
    `baselines`, `until_decided` with `max_seeds`; `storage`, `name`, `data_root`, `max_concurrent`, `max_hours`, ...
    Also `claim`, `endpoint`, `margin_pp` and `alpha`, by which the verdict is made.

    Raises `UserError` for anything that makes no sweep.
    """

    def __init__(self, recipe: AnyRecipe = "digits", **arguments: Any) -> None:
        SWEEP.refuse_unknown("", arguments, (*SWEEP.names, *OF_RECIPE))
        arguments = {name: value for name, value in arguments.items() if value is not None}
        self.options = Options(
            **{name: SWEEP.checked(name, arguments[name]) for name in SWEEP.names if name in arguments}
        )
        self.recipe = _with_arguments(_recipe(recipe), arguments, self.options)
        self.command = _command(recipe, arguments)
        if not self.options.import_ticket:  # their data say what trials there are
            expand(with_looks(self.options, self.recipe), self.options.data_root)

    def run(self, storage: str | os.PathLike[str] | None = None, **options: Any) -> Run:
        """Train what is missing and make the verdicts, with the output of the command. Returns the results.

        storage: folder or URI of all runs and their shared states; default: "runs". options: others that say where it
        runs and when it stops, such as `max_hours=1`. Raises `UserError`, or `StorageError` if the storage fails.
        """
        return _run(*self._opening(storage, options))

    def plan(self, storage: str | os.PathLike[str] | None = None, **options: Any) -> None:
        """Print the trials as a tree, with epochs, time and space, without training."""
        options_, opened = self._opening(storage, options, dry_run=True)
        with told(), contextlib.suppress(OnlyPlanned):
            show_plan(opened()[0], options_)

    def _opening(
        self, storage: str | os.PathLike[str] | None, changes: Mapping[str, Any], **fixed: Any
    ) -> tuple[Options, Callable[[], tuple[Job, Experiment]]]:
        options, command = changed(SWEEP, self.options, self.command, storage, changes, OF_RECIPE)
        options = replace(options, **fixed)
        sweep = with_precision(
            with_looks(options, self.recipe), on_gpus=options.resources.gpus > 0, here=options.is_here
        )
        files = Files(tickets=options.import_ticket, masks=options.import_masks)
        check_tuning(options, sweep)

        def opened() -> tuple[Job, Experiment]:
            setting = setting_of(SWEEP, options, trains=not options.shows_plan)
            whole, setting = tuned(options, setting, sweep, command)
            return open_job(
                options, setting, whole.name, lambda store: prepare(whole, files, store, options.data_root), command
            )

        return options, opened


def run_trials(
    specs: Iterable[TrialSpec], storage: str | os.PathLike[str] | None = None, *, name: str = "trials", **options: Any
) -> Run:
    """Train any trials together: what they share is trained once, and trials that are stored stand.

    specs: of the trials; a ticket is compared with its dense network, `dataclasses.replace(spec, control="dense")`, if
    that is among them. storage, name: folder or URI, and the name of the run in it; a call with the same name adds to
    it. options: where it runs and when it stops, as for `Sweep`; also `claim`, `endpoint`, `margin_pp`, `alpha`.
    Returns the results. Raises `UserError` or `StorageError`.
    """
    trials = of_specs(_specs(specs))
    RUN_TRIALS.refuse_unknown("", options, (*RUN_TRIALS.names, *RULE))
    where = {n: v for n, v in options.items() if n not in RULE} | {"name": name}
    call = ("python", "-c", "from sweeps import run_trials; run_trials([...])")
    chosen, command = changed(RUN_TRIALS, Options(), call, storage, where)
    rule = {key: value_of(f"run_trials, {key}", key, plain(options[key])) for key in RULE if key in options}
    recipe = Recipe(name=name, claim="Do these tickets match their dense networks?", axes={})
    recipe = replace(recipe, **rule)
    check_rule("run_trials", recipe)
    experiment = Experiment(sweep=recipe, trials=trials, notes=trials.notes)
    return _run(chosen, lambda: open_job(chosen, setting_of(RUN_TRIALS, chosen), name, lambda _: experiment, command))


# -- what both do ------------------------------------------------------------------------------------------------------


def _run(options: Options, opened: Callable[[], tuple[Job, Experiment]]) -> Run:
    started = time.monotonic()
    with ray_of_its_own(options):
        notes: Sequence[str] = ()
        try:
            job, experiment = opened()
            notes, done = experiment.notes, carry_out(job, experiment)
        except NotTuned as stopped:
            job, done = stopped.job, stopped.round
        summary = {**done.summary, "wall_s": round(time.monotonic() - started, 2)}
        is_ok = finish(job, summary, done.outcome) == OK
        lacks = unpaired(done.frames) if is_ok else ()  # else what is missing is said already
        for note in lacks:
            job.say(f"note: {note}", "yellow")
    return Run(
        folder=job.ledger.path, frames=done.frames, ok=is_ok, failures=done.outcome.failures,
        stopped_by=ended_by(done.outcome), notes=(*notes, *lacks),
    )  # fmt: skip


# -- the recipe and its values -----------------------------------------------------------------------------------------


def _recipe(recipe: AnyRecipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return recipe_of(f"{WHERE}, recipe", "sweep", as_content(recipe))
    if isinstance(recipe, str | os.PathLike):
        return any_recipe(os.fspath(recipe))
    made = recipe() if callable(recipe) else recipe
    if not isinstance(made, Recipe):
        raise bad_value(f"{WHERE}, recipe", made, "a name, a file, keys and values, or a function that returns a sweep")
    return made


def _with_arguments(recipe: Recipe, given: Mapping[str, Any], options: Options) -> Recipe:
    """The recipe with the values of the arguments, as the command line takes its flags."""
    axes: dict[str, tuple[Any, ...]] = {}
    for name, value in given.items():
        if name in AXES:
            field, values = field_of(WHERE, name, as_content(value), is_axis=True)
            if field in axes:
                raise UserError(f"{WHERE}: found {name} under two names; expected one of them")
            axes[field] = values
    if options.import_ticket:
        typed = {field: axes.get(field, ()) for field in flags()}
        recipe = without_own_tickets(recipe, typed, flags())
    named = {name: several(given[name]) for name in BRANCHES if given.get(name) is not None}
    branches = {name: value_of(f"{WHERE}, {name}", name, values) for name, values in named.items()}
    recipe = with_values(recipe, axes, seeds_of(WHERE, given, recipe.seeds), branches)
    rule = {key: value_of(f"{WHERE}, {key}", key, plain(given[key])) for key in RULE if key in given}
    recipe = replace(recipe, **rule)
    check_rule(WHERE, recipe)
    return recipe


def _command(recipe: AnyRecipe, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The command that does the same, for the plan and the report; in Python's words where there is none."""
    if isinstance(recipe, str | os.PathLike) and not set(given) & set(RULE):
        by_flag = {AXES.get(name, name): as_content(value) for name, value in given.items() if value is not None}
        if isinstance(by_flag.get("seeds"), list):
            by_flag["seed"] = by_flag.pop("seeds")
        return ("python", "-m", "sweeps.lth_grid", os.fspath(recipe), *SWEEP.words_of(by_flag))
    shown = (
        recipe
        if isinstance(recipe, str | os.PathLike | Mapping)
        else getattr(recipe, "name", getattr(recipe, "__qualname__", ""))
    )
    arguments = "".join(f", {name}={value!r}" for name, value in given.items())
    return ("python", "-c", f"from sweeps import Sweep; Sweep({shown!r}{arguments}).run()")


# -- any trials --------------------------------------------------------------------------------------------------------


def _specs(specs: Iterable[TrialSpec]) -> list[TrialSpec]:
    listed: list[Any] = [specs] if isinstance(specs, TrialSpec) else list(specs)
    for spec in listed:
        if not isinstance(spec, TrialSpec):
            raise bad_value("run_trials, specs", spec, "objects of lth_trainable.TrialSpec")
    if not listed:
        raise bad_value("run_trials, specs", [], "at least one TrialSpec")
    return listed


def _signature() -> inspect.Signature:
    """The arguments of `Sweep` by name, for `help` and the completion of an editor or a notebook."""
    named = dict.fromkeys((*AXES, "seeds", "seed", *BRANCHES, *RULE, *SWEEP.names))
    first = inspect.Parameter("recipe", inspect.Parameter.POSITIONAL_OR_KEYWORD, default="digits")
    return inspect.Signature([
        first, *(inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in named if n != "recipe")
    ])  # fmt: skip


Sweep.__signature__ = _signature()  # type: ignore[attr-defined]
