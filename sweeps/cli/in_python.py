"""How a sweep or a search runs in the process of somebody's script or notebook."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lth_trainable.errors import UserError, bad_value
from lth_trainable.quiet import ignore_torch_warnings
from sweeps.cli.arguments import Arguments, as_content, several
from sweeps.cli.job import Setting, machine_troubles
from sweeps.cli.options import RunOptions
from sweeps.experiments.expand import seed_values
from sweeps.experiments.recipe_files import value_of
from sweeps.running.launch import Outcome
from sweeps.running.ray_process import as_before, refuse_other_ray, wait_for_shutdown
from sweeps.running.submit import Where

AnyOptions = TypeVar("AnyOptions", bound=RunOptions)


@contextlib.contextmanager
def ray_of_its_own(options: RunOptions) -> Iterator[None]:
    """In this block trials may be trained; after it the process is as before, so that the next cell can start a Ray.

    Raises `UserError` if the process is connected to a Ray that the options do not name.
    """
    with told(), as_before():
        if options.address is None:
            refuse_other_ray()
        try:
            yield
        finally:
            wait_for_shutdown()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A failing disk is one line, and warnings of libraries that nobody can act on are not shown."""
    with warnings.catch_warnings(), machine_troubles():
        ignore_torch_warnings()
        warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm in a notebook, which Ray imports
        yield


def setting_of(arguments: Arguments, options: RunOptions, trains: bool = True) -> Setting:
    """Where the trials run and what they get. Raises `UserError` for a server of jobs, which takes commands only."""
    setting = Setting.of(options, trains=trains)
    if setting.where is Where.SUBMIT:
        raise UserError(
            f"{arguments.where}, address: found {options.address!r}, a job server; expected no address (this machine), "
            f"or 'auto' on a machine of the cluster; the command submits jobs: python -m {arguments.command} --address"
        )
    return setting


def changed(
    arguments: Arguments,
    before: AnyOptions,
    command: Sequence[str],
    storage: str | os.PathLike[str] | None,
    changes: Mapping[str, Any],
    others: Iterable[str] = (),
) -> tuple[AnyOptions, tuple[str, ...]]:
    """The options with changes, and the command with them. Raises `UserError`.

    command: that does the same without the changes, `python -m MODULE ...` or `python -c CALL`. others: names that are
    arguments of the class, not of its `run`.
    """
    arguments.refuse_unknown(".run" if others else "", changes, arguments.names, others)
    given = {**changes, **({} if storage is None else {"storage": storage})}
    checked = {name: arguments.checked(name, value) for name, value in given.items()}
    if command[1] != "-c":
        return replace(before, **checked), (*command, *arguments.words_of(checked))
    python, call = command[:2], command[2].removesuffix(")")
    more = ", ".join(f"{name}={_plain(value)!r}" for name, value in given.items() if value is not None)
    return replace(before, **checked), (*python, f"{call}{', ' if more and not call.endswith('(') else ''}{more})")


def _plain(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else as_content(value)


def seeds_of(where: str, given: Mapping[str, Any], default: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds in somebody's arguments: `seeds` is their number or a list, `seed` a seed or a list."""
    count, listed = as_content(given.get("seeds")), given.get("seed")
    values = tuple(value_of(f"{where}, seed", "seeds", several(listed))) if listed is not None else ()
    if isinstance(count, list):
        if values:
            raise UserError(f"{where}: found seeds and seed; expected one of them")
        return tuple(value_of(f"{where}, seeds", "seeds", count))
    if count is not None and type(count) is not int:
        raise bad_value(f"{where}, seeds", count, "the number of seeds, or a list of them")
    return seed_values(count, values, default)


def ended_by(outcome: Outcome) -> str | None:
    """The limit or signal that ended a run early, if one did."""
    return outcome.stopped_by or (outcome.signal or "SIGINT" if outcome.interrupted else None)
