"""Searches from Python, with the same options, output and files as the command, and with a study of your own:

    import optuna
    from sweeps import Search

    search = Search("digits", sparsity="50..97", lr="3e-4..3e-3:log", suggestions=20)
    study = optuna.create_study(directions=search.directions, sampler=optuna.samplers.NSGAIISampler())
    run = search.run(storage="runs", study=study)
    run.front(), study.best_trials

A mistake is one `UserError`, before anything starts. The same call again continues, as the same command does.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.run import Run
from lth_trainable.errors import OK, UserError, bad_value
from sweeps.cli.arguments import SEARCH, as_content
from sweeps.cli.in_python import changed, ended_by, ray_of_its_own, seeds_of, setting_of
from sweeps.cli.job import finish
from sweeps.cli.options import flags
from sweeps.cli.search import carry_out_search, open_search
from sweeps.cli.search_options import SearchOptions, with_options
from sweeps.experiments.recipe_files import field_of
from sweeps.search.axes import Axis, Choice, parse_axis
from sweeps.search.searches import Search as Definition
from sweeps.search.searches import find_search

if TYPE_CHECKING:  # Optuna takes a second to import
    import optuna

AXES = {**{flag: field for field, flag in flags().items()}, **{field: field for field in flags()}}
OF_SEARCH = ("suggestions", "floor", "cost", "score", "asha", "sampler", "sampler_seed")
OF_SAMPLER = ("sampler", "sampler_seed")
WHERE = SEARCH.where


@dataclass(frozen=True, kw_only=True)
class FoundRun(Run):
    """The results of a search: a run, and what was suggested. study: what `optuna-dashboard` takes to open it."""

    study: str
    rows: Sequence[Mapping[str, Any]] = field(repr=False)

    def suggestions(self) -> pd.DataFrame:
        """One row per suggestion: its fields, objectives and status; docs/tables.md describes the columns."""
        return pd.DataFrame(self.rows)

    def front(self) -> pd.DataFrame:
        """The suggestions that no other betters in every objective, by sparsity; with one objective the best."""
        found = self.suggestions()
        return found[found["on_front"]].sort_values("sparsity_pct") if len(found) else found


class Search:
    """A search for the best tickets by Optuna, as `python -m sweeps.lth_search` makes it.

    search: its name, a recipe (its name or file), "package.module:function", or such a function.
    arguments: what the options of the command line are called, with _ for -. Fields of a trial are axes: a list of
    values, a range as text, such as "50..97", "3e-4..3e-3:log" or "20..60:20", or a distribution of Optuna; one value
    fixes the field. Also `suggestions`, `floor`, `cost`, `score`, `asha`, `sampler`, `sampler_seed`, `seeds`, and where
    and how the trials run: `storage`, `name`, `max_concurrent`, `max_hours`, ...

    Raises `UserError` for anything that makes no search.
    """

    def __init__(self, search: str | os.PathLike[str] | Callable[[], Definition] = "digits_search", **arguments: Any):
        SEARCH.refuse_unknown("", arguments, (*SEARCH.names, *AXES, "seeds", "seed"))
        given = {name: _as_text(value) for name, value in arguments.items() if value is not None}
        self.options = SearchOptions(**{n: SEARCH.checked(n, given[n]) for n in SEARCH.names if n in given})
        start = _definition(search)
        axes = {**start.axes, **_axes({name: value for name, value in given.items() if name in AXES})}
        self.search = with_options(start, axes, seeds_of(WHERE, given, start.sweep.seeds), self.options)
        self._has_sampler = any(name in given for name in OF_SAMPLER)
        self._named = os.fspath(search) if isinstance(search, str | os.PathLike) else None
        self._given = given

    @property
    def directions(self) -> list[str]:
        """The directions of the objectives, for `optuna.create_study(directions=...)`."""
        from sweeps.search.ties import directions_of

        return [direction.name.lower() for direction in directions_of(self.search)]

    def run(
        self,
        storage: str | os.PathLike[str] | None = None,
        study: optuna.Study | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> FoundRun:
        """Train suggestions until the study has enough, with the output of the command. Returns what was found.

        storage: folder or URI of all runs and their shared states; default: "runs". study: a study that you have made,
        the URL of a database, or the path of a journal file; default: a file in the run's folder. A study of yours
        keeps its sampler, its pruner (which decides with `asha=True`), its trials and those that you have queued.
        options: others that say where it runs and when it stops, such as `max_hours=1`. Raises `UserError`, or
        `StorageError` if the storage fails.
        """
        if isinstance(study, str | os.PathLike):
            own, url = None, os.fspath(study)
        else:
            own, url = self._checked(study), None
        others = (*AXES, *OF_SEARCH, "seeds", "seed")
        chosen, command = changed(SEARCH, self.options, self._command(own, url), storage, options, others)
        chosen = replace(chosen, study=url)
        with ray_of_its_own(chosen), _optuna_as_before():
            job = open_search(chosen, setting_of(SEARCH, chosen), self.search, command)
            found = carry_out_search(job, chosen, self.search, own)
            is_ok = finish(job, found.summary, found.outcome) == OK and not found.outcome.failures
        return FoundRun(
            folder=job.ledger.path, frames=found.frames, ok=is_ok, failures=found.outcome.failures,
            stopped_by=ended_by(found.outcome), study=found.study, rows=found.rows,
        )  # fmt: skip

    def _checked(self, study: Any) -> optuna.Study | None:
        """A study that the user has made, if it fits this search. Raises `UserError`."""
        if study is None:
            return None
        import optuna

        from sweeps.search.places import Given
        from sweeps.search.ties import check_fits

        if not isinstance(study, optuna.Study):
            raise bad_value(
                f"{WHERE}.run, study", study, "an optuna.Study, the URL of a database or the path of a file"
            )
        if self._has_sampler:
            raise UserError(
                f"{WHERE}.run, study: found a study of your own, and {' or '.join(OF_SAMPLER)}; expected one of them; "
                "a study has its sampler: optuna.create_study(sampler=...)"
            )
        check_fits(study, self.search, Given(study))
        return study

    def _command(self, own: optuna.Study | None, url: str | None) -> tuple[str, ...]:
        """The command that does the same; in Python's words where there is none."""
        if own is None and self._named is not None:
            by_flag = {AXES.get(name, name): as_content(value) for name, value in self._given.items()}
            if isinstance(by_flag.get("seeds"), list):
                by_flag["seed"] = by_flag.pop("seeds")
            return ("python", "-m", "sweeps.lth_search", self._named, *SEARCH.words_of({**by_flag, "study": url}))
        named = repr(self._named or self.search.sweep.name)
        shown = ", ".join([named, *(f"{name}={as_content(value)!r}" for name, value in self._given.items())])
        study = "study=..." if own is not None else "" if url is None else f"study={url!r}"
        return ("python", "-c", f"from sweeps import Search; Search({shown}).run({study})")


def _definition(search: Any) -> Definition:
    made = find_search(os.fspath(search)) if isinstance(search, str | os.PathLike) else search
    made = made() if callable(made) else made
    if not isinstance(made, Definition):
        raise bad_value(f"{WHERE}, search", made, "a name, a recipe, or a function that returns a search")
    return made


def _axes(given: Mapping[str, Any]) -> dict[str, Axis]:
    axes: dict[str, Axis] = {}
    for name, value in given.items():
        field = AXES[name]
        if field in axes:
            raise UserError(f"{WHERE}: found {name} under two names; expected one of them")
        if isinstance(value, str) and ".." in value:
            axes[field] = parse_axis(field, f"{WHERE}, {name}", [value])
        else:
            _, values = field_of(WHERE, name, as_content(value), is_axis=True)
            axes[field] = Choice(values=tuple(dict.fromkeys(values)))
    return axes


def _as_text(value: Any) -> Any:
    """A distribution of Optuna as the command line would have it: a range as text, or a list of values."""
    if not type(value).__module__.startswith("optuna."):
        return value
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(value, CategoricalDistribution):
        return list(value.choices)
    if not isinstance(value, FloatDistribution | IntDistribution):
        return value
    has_step = value.step is not None and not (isinstance(value, IntDistribution) and value.step == 1)
    how = ":log" if value.log else f":{value.step!r}" if has_step else ""
    return f"{value.low!r}..{value.high!r}{how}"


@contextlib.contextmanager
def _optuna_as_before() -> Iterator[None]:
    """After this block Optuna says as much as before."""
    import optuna

    before = optuna.logging.get_verbosity()
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _signature() -> inspect.Signature:
    """The arguments of `Search` by name, for `help` and the completion of an editor or a notebook."""
    names = dict.fromkeys((*AXES, *OF_SEARCH, "seeds", "seed", *SEARCH.names))
    first = inspect.Parameter("search", inspect.Parameter.POSITIONAL_OR_KEYWORD, default="digits_search")
    return inspect.Signature([
        first, *(inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in names)
    ])  # fmt: skip


Search.__signature__ = _signature()  # type: ignore[attr-defined]
