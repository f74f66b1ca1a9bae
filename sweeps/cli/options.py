"""The command line of a sweep. Its axes are made from the fields of `TrialSpec`: a new field gives a new flag."""

from __future__ import annotations

import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lth_trainable.errors import DATABASES, PLACES, bad_value, refuse_secrets
from lth_trainable.options import parsed
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.cli.commas import without_commas
from sweeps.cli.help import Help, helped
from sweeps.experiments.baselines import BASELINES
from sweeps.experiments.branches import NAMES
from sweeps.experiments.expand import seed_values
from sweeps.experiments.imported_tickets import without_own_tickets
from sweeps.experiments.recipe_files import WITH_COMMAS, any_recipe
from sweeps.experiments.recipes import BRANCHES, FLAG_OF, NO_AXIS, RECIPES, Sweep, every_point
from sweeps.experiments.split_seeds import FIELD as SPLIT
from sweeps.experiments.split_seeds import split_value
from sweeps.experiments.tuning import SEEDS as TUNE_SEEDS
from sweeps.running.conclusion import MATCHING
from sweeps.running.launch import COVERED_IN_RAY
from sweeps.running.loggers import LOGGERS
from sweeps.running.resources import Resources
from sweeps.running.submit import Target

FIRST = (
    "target_sparsity_pct", "schedule", "rewind_epoch", "prune_rate_pct", "prune_steps", "start_pct", "end_pct",
    "retrain", "reset_end", "criterion", "granularity", "context", "layers",
)  # fmt: skip


@dataclass(kw_only=True)
class RunOptions:
    """Options of every command that trains: where and how its trials run."""

    seeds: Annotated[int | None, tyro.conf.arg(help="number of replicates: seeds 0 to N-1", metavar="N")] = None
    seed: Annotated[tuple[int, ...], tyro.conf.arg(help="replicates by seed", metavar="N ...")] = ()
    data_root: Annotated[Path | None, tyro.conf.arg(help="folder of data sets that read files", metavar="DIR")] = None
    storage: Annotated[
        str, tyro.conf.arg(help="folder or URI (s3://, gs://) of all runs and their shared states", metavar="DIR")
    ] = "runs"
    name: Annotated[str | None, tyro.conf.arg(help="name of the run; None: the name of the recipe", metavar="NAME")] = (
        None
    )
    cpus_per_trial: Annotated[int, tyro.conf.arg(help="CPU cores (and threads) of each trial", metavar="N")] = 1
    gpus_per_trial: Annotated[
        float, tyro.conf.arg(help="GPU of each trial: 0, a fraction or 1", metavar="0|0.25|1")
    ] = 0
    trials_per_gpu: Annotated[
        int | Literal["auto"] | None,
        tyro.conf.arg(
            help="in place of it: trials that share each GPU; auto: as many as fit",
            metavar="N|auto",
        ),
    ] = None
    mps: Annotated[
        Literal["auto", "off"],
        tyro.conf.arg(help="trials that share a GPU of this machine compute at the same time, through NVIDIA's MPS"),
    ] = "auto"
    max_concurrent: Annotated[int | None, tyro.conf.arg(help="trials at a time; None: as many as fit", metavar="N")] = (
        None
    )
    replicas: Annotated[
        int | Literal["auto"],
        tyro.conf.arg(
            help="small networks trained as one; auto: measured (docs/replicas.md)",
            metavar="K|auto",
        ),
    ] = 1
    cluster: Annotated[
        Path | None,
        tyro.conf.arg(help="run on the Ray cluster of this launcher file, such as cluster.yaml", metavar="FILE"),
    ] = None
    address: Annotated[
        str | None,
        tyro.conf.arg(
            help="run on a running cluster: http://head:8265 submits a job, auto connects", metavar="ADDRESS"
        ),
    ] = None
    deterministic: Annotated[bool, tyro.conf.arg(help="on a GPU: only kernels with reproducible bytes")] = False
    step: Annotated[
        Literal["captured", "eager"],
        tyro.conf.arg(
            help="on a GPU: run a training step as one CUDA graph, or kernel by kernel; the bytes are the same"
        ),
    ] = "captured"
    compile: Annotated[
        bool,
        tyro.conf.arg(
            help="pass networks, or stacks of them, through torch.compile, if trials are long enough for that to pay"
        ),
    ] = False
    profile: Annotated[
        bool, tyro.conf.arg(help="measure where the time of each trial goes: columns of its record, and of the report")
    ] = False
    max_hours: Annotated[
        float | None, tyro.conf.arg(help="stop after H hours; the same command continues", metavar="H")
    ] = None
    max_epochs: Annotated[
        int | None, tyro.conf.arg(help="stop after training E epochs; the same command continues", metavar="E")
    ] = None
    trial_silence: Annotated[
        float | None,
        tyro.conf.arg(
            help="end a trial without a training or validation step for S seconds (5 S before its first step), and try "
            "it once more; 0: never; None: 300, or 50 times its longest pause between steps so far",
            metavar="S",
        ),
    ] = None
    max_covered_in_ray: Annotated[
        int,
        tyro.conf.arg(
            help="so many of the trials that others, or earlier commands, have trained are in Ray's results too; the "
            "rest are recorded without Ray, which is faster",
            metavar="N",
        ),
    ] = COVERED_IN_RAY
    retry_failed: Annotated[bool, tyro.conf.arg(help="try failed trials again")] = False
    json: Annotated[bool, tyro.conf.arg(help="end standard output with one line of JSON")] = False
    list: Annotated[bool, tyro.conf.arg(help="list what can be run by name")] = False
    log: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help=f"also log to: {', '.join(LOGGERS)}", metavar="NAME ...", help_behavior_hint=""),
    ] = ()
    log_tickets: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="tickets that MLflow and W&B get as artifacts at the end: matching (of each rewind point the sparsest "
            "shown to match), best, all, none, or names of trials and groups",
            metavar="matching|best|all|none|NAME ...",
        ),
    ] = (MATCHING,)

    @property
    def resources(self) -> Resources:
        """What each trial gets, according to the command line."""
        return Resources.asked(
            self.cpus_per_trial, self.gpus_per_trial, self.trials_per_gpu, self.max_concurrent, self.replicas,
            deterministic=self.deterministic, step=self.step, profile=self.profile, compile=self.compile,
        )  # fmt: skip

    @property
    def is_here(self) -> bool:
        """Whether the trials run on this machine."""
        return self.target.is_this_machine

    @property
    def target(self) -> Target:
        """Where the command runs, according to the command line."""
        return Target(cluster=self.cluster, address=self.address, storage=self.storage)


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `sweeps.lth_grid` that are not axes: the recipe, its comparisons, and where and how it runs."""

    recipe: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help=f"experiment: {', '.join(RECIPES)}; or a .yaml or .toml file", metavar="RECIPE"),
    ] = "digits"
    controls: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help=f"networks that tickets must beat: all, none, {', '.join(NAMES)}", metavar="NAME ..."),
    ] = ()
    baselines: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help=f"what tickets are compared with: all, none, {', '.join(BASELINES)}", metavar="NAME ..."),
    ] = ()
    keep_states: Annotated[
        Literal["needed", "levels", "none"],
        tyro.conf.arg(help="training states to store: those that trials share, those of all levels, or none"),
    ] = "needed"
    until_decided: Annotated[
        bool, tyro.conf.arg(help="add seeds at planned looks until every question of matching is decided")
    ] = False
    max_seeds: Annotated[int | None, tyro.conf.arg(help="--until-decided: seeds at the last look", metavar="N")] = None
    tune_lr: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="tune learning rates on validation, of the values of --lr: dense ticket, and controls",
            metavar="NAME ...",
        ),
    ] = ()
    tune_seeds: Annotated[int, tyro.conf.arg(help="--tune-lr: number of seeds of its own", metavar="N")] = TUNE_SEEDS
    import_ticket: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help="tickets to import instead of the recipe's own: see docs/tickets.md", metavar="FILE ..."),
    ] = ()
    import_masks: Annotated[
        tuple[Path, ...], tyro.conf.arg(help="masks of these tickets, if they are in other files", metavar="FILE ...")
    ] = ()
    dry_run: Annotated[bool, tyro.conf.arg(help="show the plan, its epochs and its time, without training")] = False
    plan_figure: Annotated[
        Path | None, tyro.conf.arg(help="draw the plan as .svg, .pdf or .png, without training", metavar="FILE")
    ] = None

    on: Annotated[
        str | None,
        tyro.conf.arg(
            help="show the plan for hardware that is not here: '8 x H100', '64 x CPU' or a launcher file",
            metavar="HARDWARE",
        ),
    ] = None
    seconds_per_epoch: Annotated[
        float | None,
        tyro.conf.arg(help="with --dry-run or --on: how long an epoch of a trial takes, if you know", metavar="S"),
    ] = None

    @property
    def shows_plan(self) -> bool:
        """Whether the command shows its plan instead of training."""
        return self.dry_run or self.plan_figure is not None or self.on is not None

    @property
    def is_here(self) -> bool:
        """Whether the trials run, or are planned to run, on this machine."""
        return super().is_here and self.on is None


WHERE = (
    "storage", "name", "data_root", "max_concurrent", "gpus_per_trial", "trials_per_gpu", "replicas", "cluster",
    "address",
)  # fmt: skip
LISTS = ("seed", "log", "log_tickets")  # options with several values that are no axes
STOP = ("max_hours", "max_epochs", "trial_silence", "retry_failed")
HELP = Help(
    module="sweeps.lth_grid", argument="RECIPE",
    about="Train the lottery tickets of a recipe with their dense baselines, and test which of them match.\n"
    "Run the same command again to continue: what is trained stays.",
    groups={
        "what": ("recipe", "sparsity", "schedule", "rewind_epoch", "epochs", "dataset", "model", "lr", "seeds"),
        "compare": (*BRANCHES, "until_decided", "max_seeds", "import_ticket"),
        "where": WHERE, "stop": STOP, "watch": ("dry_run", "on", "plan_figure", "list", "json", "log"),
    },
    examples={
        "python -m sweeps.lth_grid": "the recipe digits: three quarters of a minute on two cores",
        "python -m sweeps.lth_grid digits --sparsity 50,80,90 --controls reinit --dry-run":
            "the plan of a sweep with other sparsities and a control, its epochs and its time",
        "python -m sweeps.lth_grid my_sweep.yaml --max-hours 2":
            "a recipe of one's own: `python -m sweeps.recipe show digits --yaml` writes one to start from",
    },
)  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> tuple[Options, Sweep]:
    """Parse the command line: the options, and the recipe with the given axes. Exits with code 2 on a malformed flag.

    Raises `UserError` for values that do not make a sweep.
    """
    argv, arguments = read(argv, HELP, Options, _axes_class(), (*BRANCHES, "tune_lr"))
    sweep = any_recipe(arguments.recipe)
    typed = {name: getattr(arguments.axes, flag) for name, flag in flags().items()}
    typed[SPLIT] = tuple(split_value("split-seed", value) for value in typed[SPLIT])
    if arguments.import_ticket:
        sweep = without_own_tickets(sweep, typed, flags())
    branches = {name: getattr(arguments, name) for name in BRANCHES}
    lists = {name: getattr(arguments, name) for name in (*LISTS, "tune_lr")}
    for name, values in {**typed, **branches, **lists}.items():
        flag = "--" + FLAG_OF.get(name, name).replace("_", "-")
        if flag in argv and not values:
            raise bad_value(flag, "", "at least one value")
    told = arguments.seconds_per_epoch
    if told is not None and not (told > 0 and arguments.shows_plan):
        raise bad_value("seconds-per-epoch", told, "a positive number of seconds, with --dry-run or --on")
    seeds = seed_values(arguments.seeds, arguments.seed, sweep.seeds)
    return arguments, with_values(sweep, typed, seeds, branches)


def with_values(
    sweep: Sweep, axes: Mapping[str, tuple[Any, ...]], seeds: tuple[int, ...], branches: Mapping[str, tuple[str, ...]]
) -> Sweep:
    """The sweep with these values on its axes, these seeds, and these branches; what is empty stays as it is."""
    given = {**sweep.axes, **{name: values for name, values in axes.items() if values}}
    base = {name: value for name, value in sweep.base.items() if name not in given}
    requested: dict[str, Any] = {name: values for name, values in branches.items() if values}
    optional = tuple(name for name in sweep.if_possible if name not in requested)
    if "controls" in requested:
        requested["controlled"] = every_point  # these controls were asked for, so every ticket has them
    return replace(sweep, base=base, axes=given, seeds=seeds, if_possible=optional, **requested)


def read(
    argv: Sequence[str] | None, text: Help, options: type, axes: type, lists: Sequence[str] = ()
) -> tuple[list[str], Any]:
    """The words of a command line (None: of this process), with commas resolved, and its options with the axes.

    text: the short help. options, axes: dataclasses; the axes are in the field `axes` of what is returned. lists:
    options that take several values, beside the axes and `LISTS`. Exits with code 2 on a malformed flag.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for argument in argv:  # before any of them is written down or printed
        refuse_secrets("command line", argument, DATABASES if "sql" in argument.partition("://")[0] else PLACES)
    names = [flag for field, flag in flags().items() if field not in WITH_COMMAS]
    several = {"--" + name.replace("_", "-") for name in (*names, *LISTS, *lists)}
    argv = without_commas(helped(argv, text, (options, axes)), several)
    axes_field = ("axes", Annotated[axes, tyro.conf.arg(name="")])
    return argv, parsed(
        make_dataclass("Arguments", [axes_field], bases=(options,), kw_only=True), axes,
        prog=text.program, description=text.about, args=argv, config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip


def flags() -> dict[str, str]:
    """Flags by spec field, those that define a ticket first."""
    names = [*FIRST, *(f.name for f in fields(TrialSpec) if f.name not in (*FIRST, *NO_AXIS))]
    return {name: FLAG_OF.get(name, name) for name in names}


def _axes_class() -> type:
    """A dataclass with a tuple of values for each axis, empty if the command line does not give it."""
    hints, by_name = typing.get_type_hints(TrialSpec), {f.name: f for f in fields(TrialSpec)}
    entries = [
        (flag, _axis_type(hints[name], m["help"], by_name[name].default, m.get("as_text")), field(default=()))
        for name, flag in flags().items()
        for m in [by_name[name].metadata]
    ]
    return make_dataclass("Axes", entries, namespace={"__doc__": "Each takes one or more values."})


def _axis_type(hint: Any, text: str, default: Any, as_text: str | None) -> Any:
    plain = next(t for t in (*typing.get_args(hint), hint) if t is not type(None))
    hint_text = "" if default is None else f"(default: the recipe's, or {default})"
    kind = as_text or {int: "N", float: "X", bool: "True|False", str: "NAME"}[plain]
    plain = str if as_text else plain
    values: Any = tuple[plain, ...]  # type: ignore[valid-type]
    return Annotated[values, tyro.conf.arg(help=text, metavar=f"{kind} ...", help_behavior_hint=hint_text)]
