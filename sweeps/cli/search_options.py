"""The command line of a search: the flags of a sweep, which also take ranges, and those of the study."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lth_trainable.errors import bad_value
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.cli.help import Help
from sweeps.cli.options import LISTS, STOP, WHERE, RunOptions, flags, read
from sweeps.experiments.expand import seed_values
from sweeps.experiments.precision import FIELD as PRECISION
from sweeps.experiments.precision import with_precision
from sweeps.experiments.recipes import RECIPES
from sweeps.search.axes import Axis, Choice, parse_axis
from sweeps.search.searches import GRID, SAMPLERS, SEARCHES, Search, find_search

REDUCTION = 3
GIVEN = ("suggestions", "score", "sampler", "sampler_seed")  # options that replace what the search says


@dataclass(kw_only=True)
class SearchOptions(RunOptions):
    """Options of `sweeps.lth_search` that are not axes: the search, its objectives, and where and how it runs."""

    search: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help=f"search: {', '.join(SEARCHES)}; or a recipe: {', '.join(RECIPES)}", metavar="SEARCH"),
    ] = "digits_search"
    suggestions: Annotated[
        int | None,
        tyro.conf.arg(help="number of suggestions, earlier commands' too; None: the search's", metavar="N"),
    ] = None
    floor: Annotated[
        float | None,
        tyro.conf.arg(
            help="find the best accuracy at this sparsity (percent) or more; None: accuracy against sparsity",
            metavar="PCT",
        ),
    ] = None
    cost: Annotated[bool, tyro.conf.arg(help="also minimise the epochs of training")] = False
    score: Annotated[
        Literal["mean", "paired"] | None,
        tyro.conf.arg(help="accuracy: the mean over seeds, or the mean difference from each seed's dense trial"),
    ] = None
    asha: Annotated[
        bool,
        tyro.conf.arg(help="with --floor: keep only the best third after one third and two thirds of the levels"),
    ] = False
    sampler: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"how Optuna chooses points: {', '.join(SAMPLERS)} (all points), or module:function of your own; "
            "None: the search's",
            metavar="NAME",
        ),
    ] = None
    sampler_seed: Annotated[int | None, tyro.conf.arg(help="seed of Optuna's sampler", metavar="N")] = None
    study: Annotated[
        str | None,
        tyro.conf.arg(
            help="keep the study in this database or journal file: sqlite:///FILE, postgresql://USER@HOST/DATABASE, "
            "FILE.log; None: in the run's folder",
            metavar="URL",
        ),
    ] = None
    confirm: Annotated[
        Literal["knee", "all"],
        tyro.conf.arg(help="the command at the end trains on other seeds: the knee of the front, or all of it"),
    ] = "knee"


HELP = Help(
    module="sweeps.lth_search", argument="SEARCH",
    about="Search for the best tickets with Optuna: any axes, several seeds each, reusing stored training.\n"
    "Run the same command again to continue: what is trained stays.\n"
    "AXIS is a value, several (50,80), or a range: LOW..HIGH, LOW..HIGH:log or LOW..HIGH:STEP.",
    groups={
        "what": ("search", "suggestions", "sparsity", "rewind_epoch", "lr", "epochs", "dataset", "model", "seeds"),
        "compare": ("floor", "cost", "score", "asha", "sampler"),
        "where": ("study", *WHERE), "stop": STOP, "watch": ("list", "json", "log"),
    },
    examples={
        "python -m sweeps.lth_search": "the search digits_search",
        "python -m sweeps.lth_search digits --sparsity 50..95 --lr 1e-4..1e-2:log --suggestions 20":
            "sparsity and learning rate of the recipe digits within these ranges",
        "python -m sweeps.lth_search digits --floor 90 --asha":
            "the most accurate ticket of at least 90 %; poor ones are ended early",
        "python -m sweeps.lth_search digits --sparsity 64,80,90 --criteria large_final,movement --sampler grid":
            "every combination of these values once",
    },
)  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> tuple[SearchOptions, Search]:
    """Parse the command line: the options, and the search with the given axes. Exits with code 2 on a malformed flag.

    Raises `UserError` for values that do not make a search.
    """
    argv, arguments = read(argv, HELP, SearchOptions, _axes_class())
    if arguments.list:
        return arguments, find_search(next(iter(SEARCHES)))
    search = find_search(arguments.search)
    axes = dict(search.axes)
    for name, flag in flags().items():
        words = getattr(arguments.axes, flag)
        shown = "--" + flag.replace("_", "-")
        if words:
            axes[name] = parse_axis(name, shown, words)
        elif shown in argv:
            raise bad_value(shown, "", "at least one value")
    for name in LISTS:
        flag = "--" + name.replace("_", "-")
        if flag in argv and not getattr(arguments, name):
            raise bad_value(flag, "", "at least one value")
    seeds = seed_values(arguments.seeds, arguments.seed, search.sweep.seeds)
    return arguments, with_options(search, axes, seeds, arguments)


def with_options(search: Search, axes: Mapping[str, Axis], seeds: tuple[int, ...], options: SearchOptions) -> Search:
    """The search with these axes and seeds, and what the options say of it, checked. Raises `UserError`."""
    on_gpus = options.resources.gpus > 0
    sweep = with_precision(replace(search.sweep, seeds=seeds), on_gpus=on_gpus, here=options.is_here)
    if isinstance(chosen := axes.get(PRECISION), Choice):
        of_axis = with_precision(replace(sweep, axes={PRECISION: chosen.values}), on_gpus=on_gpus, here=options.is_here)
        axes = {**axes, PRECISION: Choice(values=of_axis.axes[PRECISION])}
    objectives = ("accuracy",) if options.floor is not None else ("accuracy", "sparsity")
    changed: dict[str, Any] = {
        "axes": axes, "floor": options.floor, "objectives": (*objectives, *(["epochs"] if options.cost else [])),
        "reduction": REDUCTION if options.asha else None, "sweep": sweep,
        **{n: v for n in GIVEN if (v := getattr(options, n)) is not None},
    }  # fmt: skip
    if changed.get("sampler", search.sampler) == GRID and options.suggestions is None:
        changed["suggestions"] = sys.maxsize  # all points, however many there are
    return replace(search, **changed).check()


def check_study_of_job(study: str | None) -> None:
    """Raise `UserError` for a study in a file that a job would write into its own working directory."""
    if study is None:
        return
    file = study.partition(":///")[2] if "://" in study else study
    if file and not Path(file).is_absolute() and (study.startswith("sqlite") or "://" not in study):
        raise bad_value(
            "study", study, "an absolute path on the head, or a database on a server",
            "a job has its own working directory, which is deleted with it",
        )  # fmt: skip


def _axes_class() -> type:
    """A dataclass with the words after each flag, empty if the command line does not give it."""
    text = {f.name: f.metadata["help"] for f in fields(TrialSpec)}
    entries = [
        (
            flag,
            Annotated[tuple[str, ...], tyro.conf.arg(help=text[name], metavar="AXIS", help_behavior_hint="")],
            field(default=()),
        )
        for name, flag in flags().items()
    ]
    about = "Each takes a value, several, or a range: LOW..HIGH, LOW..HIGH:log or LOW..HIGH:STEP."
    return make_dataclass("Axes", entries, namespace={"__doc__": about})
