"""The options of the command line as arguments from Python: their names, their types, and the words they stand for."""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from lth_trainable.errors import UserError, bad_value, refuse_secrets, unknown_name
from sweeps.cli.options import BRANCHES, Options, flags

WHERE = "Sweep"  # what messages about an argument begin with
NOT_HERE = {
    "cluster": "from Python a sweep runs on this machine, or with address='auto' on the cluster that it belongs to",
    "dry_run": "call .plan() instead", "plan_figure": "call .plan() instead",
    "list": "`from sweeps.experiments.recipes import RECIPES` has all recipes",
    "json": "the run has everything as data frames",
}  # fmt: skip
_HINTS = typing.get_type_hints(Options)
NAMES = tuple(f.name for f in fields(Options) if f.name not in (*NOT_HERE, *BRANCHES, "recipe", "seeds", "seed"))
_NUMBERS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}


def checked_option(name: str, value: Any) -> Any:
    """The value of an option, with the type that the command line gives it. Raises `UserError`."""
    kinds = _kinds_of(_HINTS[name])
    if value is None and type(None) in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    if typing.get_origin(kind) is tuple:
        return tuple(_one(name, each, typing.get_args(kind)[0]) for each in several(value))
    return _one(name, value, kind)


def _kinds_of(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _one(name: str, value: Any, kind: Any) -> Any:
    where = f"{WHERE}, {name}"
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
        raise bad_value(where, value, _NUMBERS[kind])
    return value


def several(value: Any) -> list[Any]:
    """One value or several as a list: lists, tuples, ranges, arrays and columns of pandas are several."""
    value = plain(value)
    if isinstance(value, str | os.PathLike | Mapping) or not isinstance(value, Iterable):
        return [value]
    return [plain(each) for each in value]


def plain(value: Any) -> Any:
    """A value as Python's own type, also if it is a scalar of NumPy."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def as_content(value: Any) -> Any:
    """A value as a recipe file would have it: lists for several values, Python's own types."""
    value = plain(value)
    if isinstance(value, Mapping):
        return {str(key): as_content(each) for key, each in value.items()}
    if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        return value
    return [as_content(each) for each in value]


def refuse_unknown(where: str, names: Iterable[str], valid: Iterable[str], elsewhere: Iterable[str] = ()) -> None:
    """Raise `UserError` for a name that is no argument. elsewhere: those that are arguments of `Sweep`."""
    known, others = set(valid), set(elsewhere)
    for name in names:
        if name in NOT_HERE:
            raise UserError(f"{where}: found {name}; expected no such argument; {NOT_HERE[name]}")
        if name in others - known:
            raise UserError(f"{where}: found {name}; expected what says where it runs; {name} belongs to Sweep(...)")
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else "help(sweeps.Sweep) lists them"
            raise UserError(f"{where}: found {name}; expected an option of sweeps.lth_grid; {advice}")


def words_of(given: Mapping[str, Any]) -> list[str]:
    """The flags of the command line that mean the same as these arguments. Defaults stay out."""
    by_field = flags()
    words: list[str] = []
    for name, value in given.items():
        flag = "--" + by_field.get(name, name).replace("_", "-")
        if value is True and isinstance(_HINTS.get(name), type) and _HINTS[name] is bool:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, *map(_word, several(value))]
    return words


def _word(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
