"""The options of the command line as arguments from Python: their names, their types, and the words they stand for."""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lth_trainable.errors import UserError, bad_value, refuse_secrets, unknown_name
from lth_trainable.scalars import plain
from sweeps.cli.options import Options, RunOptions, flags
from sweeps.cli.search_options import SearchOptions
from sweeps.experiments.recipes import BRANCHES

NOT_HERE = {
    "cluster": "from Python the trials run on this machine, or with address='auto' on the cluster that it belongs to",
    "dry_run": "call .plan() instead", "plan_figure": "call .plan() instead",
    "list": "`from sweeps.experiments.recipes import RECIPES` has all recipes",
    "json": "the run has everything as data frames", "study": "give it to .run(study=...)",
}  # fmt: skip
NO_OPTIONS = (*NOT_HERE, *BRANCHES, "recipe", "search", "seeds", "seed")
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}


@dataclass(frozen=True)
class Arguments:
    """The arguments of a class or function that does in Python what a command does.

    where: its name, with which messages begin. command: its module. options: the dataclass of the command's options.
    """

    where: str
    command: str
    options: type[RunOptions]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The options that are arguments, too."""
        return tuple(f.name for f in fields(self.options) if f.name not in NO_OPTIONS)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.options)

    def checked(self, name: str, value: Any) -> Any:
        """The value of an option, with the type that the command line gives it. Raises `UserError`."""
        kinds = _kinds_of(self._hints[name])
        if value is None and type(None) in kinds:
            return None
        others = [kind for kind in kinds if kind is not type(None)]
        kind = next((k for k in others if isinstance(value, str) == (typing.get_origin(k) is Literal)), others[0])
        where = f"{self.where}, {name}"
        if typing.get_origin(kind) is Literal and value not in typing.get_args(kind) and len(others) > 1:
            words = [_KINDS[other] for other in others if other is not kind]
            raise bad_value(where, value, f"{', '.join(words)}, or {' or '.join(typing.get_args(kind))}")
        if typing.get_origin(kind) is tuple:
            return tuple(_one(where, each, typing.get_args(kind)[0]) for each in several(value))
        return _one(where, value, kind)

    def refuse_unknown(
        self, method: str, names: Iterable[str], valid: Iterable[str], others: Iterable[str] = ()
    ) -> None:
        """Raise `UserError` for a name that is no argument. method: such as ".run". others: arguments of the class."""
        known, where = set(valid), f"{self.where}{method}"
        for name in names:
            if name in NOT_HERE and name in self._hints and name not in known:
                raise UserError(f"{where}: found {name}; expected no such argument; {NOT_HERE[name]}")
            if name in set(others) - known:
                raise UserError(
                    f"{where}: found {name}; expected what says where it runs; {name} belongs to {self.where}(...)"
                )
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
                advice = f"did you mean {near[0]}?" if near else f"help(sweeps.{self.where}) lists them"
                raise UserError(f"{where}: found {name}; expected an option of {self.command}; {advice}")

    def words_of(self, given: Mapping[str, Any]) -> list[str]:
        """The flags of the command line that mean the same as these arguments. Defaults stay out."""
        by_field = flags()
        words: list[str] = []
        for name, value in given.items():
            flag = "--" + by_field.get(name, name).replace("_", "-")
            if value is True and self._hints.get(name) is bool:
                words.append(flag)
            elif value is not None and value is not False:
                words += [flag, *map(_word, several(value))]
        return words


SWEEP = Arguments("Sweep", "sweeps.lth_grid", Options)
SEARCH = Arguments("Search", "sweeps.lth_search", SearchOptions)


def _kinds_of(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _one(where: str, value: Any, kind: Any) -> Any:
    value = plain(value)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise unknown_name(where, str(value), typing.get_args(kind))
        return value
    if kind in (str, Path) and isinstance(value, str | os.PathLike):
        refuse_secrets(where, os.fspath(value))
        return kind(os.fspath(value))
    if kind is float and type(value) in (int, float):
        return value
    if type(value) is not kind:
        raise bad_value(where, value, _KINDS[kind])
    return value


def several(value: Any) -> list[Any]:
    """One value or several as a list: lists, tuples, ranges, arrays and columns of pandas are several."""
    value = plain(value)
    if isinstance(value, str | os.PathLike | Mapping) or not isinstance(value, Iterable):
        return [value]
    return [plain(each) for each in value]


def as_content(value: Any) -> Any:
    """A value as a recipe file would have it: lists for several values, Python's own types."""
    value = plain(value)
    if isinstance(value, Mapping):
        return {str(key): as_content(each) for key, each in value.items()}
    if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        return value
    return [as_content(each) for each in value]


def _word(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
